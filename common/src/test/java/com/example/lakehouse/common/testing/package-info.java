/** What the tests of all modules share. */
package com.example.lakehouse.common.testing;
