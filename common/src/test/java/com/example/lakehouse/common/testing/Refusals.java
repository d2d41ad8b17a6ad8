package com.example.lakehouse.common.testing;

import java.util.Objects;
import java.util.stream.Stream;
import org.apache.spark.SparkThrowable;
import org.assertj.core.api.Assertions;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;

/** Assertions on what Spark and Delta refuse. */
public final class Refusals {
  private Refusals() {}

  /**
   * Expects an error for the reason {@code condition}: that of the last cause that has one, for a
   * write fails in a task, which fails its job.
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
                            .map(e -> ((SparkThrowable) e).getCondition())
                            .filter(Objects::nonNull)
                            .reduce((outer, cause) -> cause))
                    .as("the reason of %s", error)
                    .hasValue(condition));
  }
}
