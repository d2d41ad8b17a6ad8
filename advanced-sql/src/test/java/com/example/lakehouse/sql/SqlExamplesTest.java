package com.example.lakehouse.sql;

import com.example.lakehouse.common.testing.ExampleContract;

class SqlExamplesTest extends ExampleContract {}
