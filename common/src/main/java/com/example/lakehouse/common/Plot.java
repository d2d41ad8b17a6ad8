package com.example.lakehouse.common;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Points by two numbers, each series in a colour of its own.
 *
 * @param title what is shown
 * @param x what the horizontal axis counts, with its unit
 * @param y what the vertical axis counts, with its unit
 * @param joined whether each series is a curve, in the order of its points
 * @param series the points of each series by name
 */
public record Plot(
    String title, String x, String y, boolean joined, Map<String, List<Point>> series)
    implements Drawing {

  /** One point. */
  public record Point(double x, double y) {}

  /** Points that are not joined. */
  public static Plot scatter(String title, String x, String y) {
    return new Plot(title, x, y, false, new LinkedHashMap<>());
  }

  /** A curve for each series. */
  public static Plot curve(String title, String x, String y) {
    return new Plot(title, x, y, true, new LinkedHashMap<>());
  }

  public Plot point(String name, Number x, Number y) {
    series
        .computeIfAbsent(name, n -> new ArrayList<>())
        .add(new Point(x.doubleValue(), y.doubleValue()));
    return this;
  }
}
