package com.example.lakehouse.common;

import java.util.List;

/** One piece of a notebook's story. */
sealed interface Block {

  record Step(int number, String title) implements Block {}

  record Text(String text) implements Block {}

  /**
   * Rows under column names.
   *
   * @param numeric by column, whether its values are numbers and stand on the right
   * @param more whether there are more rows than these
   */
  record Table(
      String caption,
      List<String> columns,
      List<Boolean> numeric,
      List<List<String>> rows,
      boolean more)
      implements Block {}

  record Figure(Drawing drawing) implements Block {}

  /**
   * An error that a step was meant to end in.
   *
   * @param condition Spark's or Delta's name of the error, empty if it has none
   */
  record Refusal(String what, String type, String condition, String message) implements Block {}
}
