package com.example.lakehouse.common;

import java.text.DecimalFormat;
import java.text.DecimalFormatSymbols;
import java.util.Locale;

/** Numbers for people, the same in every locale. */
final class Numbers {
  private Numbers() {}

  static String format(Number number) {
    double value = number.doubleValue();
    String pattern = "#,##0.##";
    if (Math.abs(value) >= 100 || value == Math.rint(value)) {
      pattern = "#,##0";
    } else if (Math.abs(value) < 1) {
      pattern = "0.####";
    }
    return new DecimalFormat(pattern, DecimalFormatSymbols.getInstance(Locale.ROOT)).format(number);
  }
}
