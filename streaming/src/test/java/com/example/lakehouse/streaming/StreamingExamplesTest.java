package com.example.lakehouse.streaming;

import com.example.lakehouse.common.testing.ExampleContract;

class StreamingExamplesTest extends ExampleContract {}
