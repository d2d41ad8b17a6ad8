package com.example.lakehouse.common;

import java.util.LinkedHashMap;
import java.util.Map;

/**
 * Bars side by side, one group for each category and one bar for each series.
 *
 * @param title what is compared
 * @param unit what the numbers count, such as {@code files}
 * @param series for each series by name, the value of each category by name
 */
public record Chart(String title, String unit, Map<String, Map<String, Double>> series)
    implements Drawing {

  public Chart(String title, String unit) {
    this(title, unit, new LinkedHashMap<>());
  }

  public Chart bar(String name, String category, Number value) {
    series.computeIfAbsent(name, n -> new LinkedHashMap<>()).put(category, value.doubleValue());
    return this;
  }

  /** A series of one chart has no name to tell it from others. */
  public Chart bar(String category, Number value) {
    return bar("", category, value);
  }
}
