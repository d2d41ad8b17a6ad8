package com.example.lakehouse.common.testing;

import java.util.stream.Stream;
import org.apache.spark.SparkThrowable;
import org.assertj.core.api.Assertions;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;

/** Assertions on what Spark and Delta refuse. */
public final class Refusals {
  private Refusals() {}

  /**
   * Expects an error with {@code condition}: the exception's own, or that of one of its causes, for
   * a write fails in a task.
   *
   * @param condition such as {@code DELTA_VERSION_NOT_FOUND}
   */
  public static void assertRefused(String condition, ThrowingCallable call) {
    Assertions.assertThatThrownBy(call)
        .satisfies(
            error ->
                Assertions.assertThat(
                        Stream.iterate(error, e -> e != null, Throwable::getCause)
                            .filter(SparkThrowable.class::isInstance)
                            .map(e -> ((SparkThrowable) e).getCondition()))
                    .as("conditions of %s", error)
                    .contains(condition));
  }
}
