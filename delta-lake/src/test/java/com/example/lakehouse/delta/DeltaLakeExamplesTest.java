package com.example.lakehouse.delta;

import com.example.lakehouse.common.testing.ExampleContract;

class DeltaLakeExamplesTest extends ExampleContract {}
