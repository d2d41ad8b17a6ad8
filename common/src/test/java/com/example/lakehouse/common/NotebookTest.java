package com.example.lakehouse.common;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatCode;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.testing.SparkTest;
import org.apache.spark.SparkThrowable;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Test;

@SparkTest
class NotebookTest {

  /** Any class with Javadoc will do as the example. */
  private static void run(Notebook.Story story) throws Exception {
    Notebook.run(SparkSessions.class, new String[0], story);
  }

  @Test
  void nestedValuesAreShownWithoutTheClassesThatHoldThem(SparkSession spark) {
    Row row =
        spark
            .sql(
                "SELECT named_struct('city', 'Berlin', 'zip', NULL), array(1, 2), map('a', array(3))")
            .head();

    assertThat(Notebook.cell(row)).isEqualTo("[[Berlin, null], [1, 2], {a: [3]}]");
  }

  @Test
  void aStepThatIsRefusedAsExpectedGoesOn(SparkSession spark) {
    assertThatCode(
            () ->
                run(
                    notebook ->
                        notebook.refused(
                            "no table",
                            "TABLE_OR_VIEW_NOT_FOUND",
                            () -> spark.table("no_such_table").collectAsList())))
        .doesNotThrowAnyException();
  }

  @Test
  void aStepThatShouldHaveBeenRefusedFailsTheRun(SparkSession spark) {
    assertThatThrownBy(
            () ->
                run(
                    notebook ->
                        notebook.refused(
                            "one row", "DIVIDE_BY_ZERO", () -> spark.sql("SELECT 1").collect())))
        .isInstanceOf(IllegalStateException.class)
        .hasMessage("expected DIVIDE_BY_ZERO, but it was not refused: one row");
  }

  @Test
  void anotherErrorThanTheExpectedOneFailsTheRunAsItIs(SparkSession spark) {
    assertThatThrownBy(
            () ->
                run(
                    notebook ->
                        notebook.refused(
                            "a division", "DIVIDE_BY_ZERO", () -> spark.table("no_such_table"))))
        .isInstanceOf(SparkThrowable.class)
        .hasMessageContaining("TABLE_OR_VIEW_NOT_FOUND");
  }

  @Test
  void aMessageIsOneLineWithoutItsConditionAlsoWhenItBeginsWithALineBreak() {
    assertThat(Notebook.shortened("\n[PARSE_SYNTAX_ERROR] Syntax error\n  at line 1\n"))
        .isEqualTo("Syntax error at line 1");
  }
}
