/** What the main methods and the tests of all modules share; snippets never import it. */
package com.example.lakehouse.common;
