package com.example.lakehouse.optimization;

import com.example.lakehouse.common.testing.ExampleContract;

class OptimizationExamplesTest extends ExampleContract {}
