package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.math.BigDecimal;
import java.math.RoundingMode;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Test;

@SparkTest
class SqlScriptingTest {

  private static BigDecimal money(String amount) {
    return new BigDecimal(amount);
  }

  private static void createAccounts(SparkSession spark) {
    spark.sql("CREATE TABLE accounts (account STRING, balance DECIMAL(12,2)) USING delta");
    spark.sql("INSERT INTO accounts VALUES ('ada', 100.00), ('grace', 50.00)");
  }

  private static void createLog(SparkSession spark) {
    spark.sql("CREATE TABLE log (n INT) USING parquet");
  }

  @Test
  void theLoopPaysTheLoanOffAsPlainJavaDoes(SparkSession spark) {
    List<Row> expected = new ArrayList<>();
    BigDecimal debt = money("1000.00");
    for (int month = 1; debt.signum() > 0; month++) {
      BigDecimal interest = debt.movePointLeft(2).setScale(2, RoundingMode.HALF_UP);
      debt = debt.add(interest).subtract(money("87.65")).max(money("0.00"));
      expected.add(row(month, interest, debt));
    }

    assertThat(expected).hasSize(13);
    assertThat(SqlScripting.instalments(spark, money("1000.00"), money("87.65")))
        .hasSchema("month INT, interest DECIMAL(12,2), debt DECIMAL(12,2)")
        .hasRowsInOrder(expected.toArray(Row[]::new));
  }

  @Test
  void aLoopThatWouldNeverEndRaisesAnError(SparkSession spark) {
    assertThatThrownBy(() -> SqlScripting.instalments(spark, money("1000.00"), money("10.00")))
        .hasMessageContaining("[USER_RAISED_EXCEPTION] this debt never ends");
  }

  @Test
  void aTransferThatIsRefusedDoesNotStopTheNext(SparkSession spark, Sandbox sandbox) {
    createAccounts(spark);
    spark.sql(
        """
        CREATE TABLE transfers AS
        SELECT * FROM VALUES
          (1L, 'grace', 'ada', 80.00BD), (2L, 'ada', 'grace', 70.00BD), (3L, 'grace', 'ada', 80.00BD),
          (4L, 'ada', 'nobody', 1.00BD), (5L, 'nobody', 'ada', 1.00BD), (6L, 'ada', 'ada', 1.00BD),
          (7L, 'ada', 'grace', 110.00BD)
          AS transfers (transfer_id, payer, payee, amount)
        """);

    assertThat(SqlScripting.settle(spark))
        .hasSchema("transfer_id BIGINT, outcome STRING")
        .hasRowsInOrder(
            row(1L, "refused"),
            row(2L, "done"),
            row(3L, "done"),
            row(4L, "refused"),
            row(5L, "refused"),
            row(6L, "refused"),
            row(7L, "done"));
    assertThat(spark.table("accounts"))
        .hasRows(row("ada", money("0.00")), row("grace", money("150.00")));
    assertThat(spark.sql("DESCRIBE HISTORY accounts").where("operation = 'UPDATE'"))
        .as("one commit for both sides of a transfer")
        .hasRowCount(3);
  }

  @Test
  void aScriptIsNoTransaction(SparkSession spark, Sandbox sandbox) {
    createAccounts(spark);

    assertRefused(
        "DIVIDE_BY_ZERO",
        () ->
            spark.sql(
                """
                BEGIN
                  DELETE FROM accounts WHERE account = 'ada';
                  SELECT 1 / 0;
                  DELETE FROM accounts WHERE account = 'grace';
                END
                """));

    assertThat(spark.table("accounts")).hasRows(row("grace", money("50.00")));
  }

  @Test
  void theHandlerTakesTheFirstStatementBack(SparkSession spark, Sandbox sandbox) {
    createAccounts(spark);
    spark.sql(
        "CREATE TABLE statements AS SELECT * FROM VALUES ('ada', '1.00'), ('grace', 'x') AS s"
            + " (account, balance)");

    assertThatThrownBy(() -> SqlScripting.reload(spark))
        .hasMessageContaining("[USER_RAISED_EXCEPTION] not loaded: the accounts are as they were");

    assertThat(spark.table("accounts"))
        .hasRows(row("ada", money("100.00")), row("grace", money("50.00")));
    assertThat(spark.sql("DESCRIBE HISTORY accounts").select("operation"))
        .as("emptied, and restored")
        .hasRowsInOrder(row("RESTORE"), row("DELETE"), row("WRITE"), row("CREATE TABLE"));
  }

  @Test
  void aLoadThatDoesNotFailStays(SparkSession spark, Sandbox sandbox) {
    createAccounts(spark);
    spark.sql(
        "CREATE TABLE statements AS SELECT * FROM VALUES ('ada', '1.00'), ('radia', '2.00') AS s"
            + " (account, balance)");

    SqlScripting.reload(spark);

    assertThat(spark.table("accounts"))
        .hasRows(row("ada", money("1.00")), row("radia", money("2.00")));
  }

  @Test
  void theNearestAndThenTheMostExactHandlerTakesAnError(SparkSession spark) {
    assertThat(
            spark.sql(
                """
                BEGIN
                  DECLARE EXIT HANDLER FOR SQLEXCEPTION SELECT 'any error' AS taken_by;
                  DECLARE EXIT HANDLER FOR SQLSTATE '22012' SELECT 'the state' AS taken_by;
                  DECLARE EXIT HANDLER FOR DIVIDE_BY_ZERO SELECT 'the condition' AS taken_by;
                  SELECT 1 / 0;
                END
                """))
        .hasRows(row("the condition"));
    assertThat(
            spark.sql(
                """
                BEGIN
                  DECLARE EXIT HANDLER FOR DIVIDE_BY_ZERO SELECT 'the outer condition' AS taken_by;
                  BEGIN
                    DECLARE EXIT HANDLER FOR SQLEXCEPTION SELECT 'any inner error' AS taken_by;
                    SELECT 1 / 0;
                  END;
                END
                """))
        .hasRows(row("any inner error"));
    assertThat(
            spark.sql(
                """
                BEGIN
                  DECLARE EXIT HANDLER FOR SQLSTATE '22012' SELECT 'the state' AS taken_by;
                  SELECT 1 / 0;
                  SELECT 'nobody: what stands after the error is left out' AS taken_by;
                END
                """))
        .hasRows(row("the state"));
  }

  @Test
  void loopsCanBeLeftAndContinued(SparkSession spark) {
    assertThat(
            spark.sql(
                """
                BEGIN
                  DECLARE n INT DEFAULT 0;
                  DECLARE seen ARRAY<INT> DEFAULT array();
                  numbers: LOOP
                    SET n = n + 1;
                    IF n % 2 = 0 THEN ITERATE numbers; END IF;
                    IF n > 7 THEN LEAVE numbers; END IF;
                    SET seen = array_append(seen, n);
                  END LOOP numbers;
                  REPEAT
                    SET n = n * 10;
                    SET seen = array_append(seen, n);
                  UNTIL n > 100 END REPEAT;
                  CASE WHEN n > 100 THEN SET seen = array_append(seen, -1);
                  ELSE SET seen = array_append(seen, -2);
                  END CASE;
                  SELECT array_join(seen, ' ') AS seen;
                END
                """))
        .hasRows(row("1 3 5 7 90 900 -1"));
  }

  @Test
  void anInnerVariableHidesAnOuterOneAndBothEndWithTheirBlock(SparkSession spark) {
    assertThat(
            spark.sql(
                """
                BEGIN
                  DECLARE a INT DEFAULT 1;
                  DECLARE seen ARRAY<INT> DEFAULT array();
                  BEGIN
                    DECLARE a INT DEFAULT 2;
                    SET seen = array_append(seen, a);
                  END;
                  SET seen = array_append(seen, a);
                  SELECT seen[0] AS inner_a, seen[1] AS outer_a;
                END
                """))
        .hasRows(row(2, 1));
    assertRefused("UNRESOLVED_COLUMN.WITHOUT_SUGGESTION", () -> spark.sql("SELECT a"));
  }

  /** The text is read as a whole; what its names stand for, when their statement is reached. */
  @Test
  void aSyntaxErrorIsFoundBeforeTheFirstStatementAndAnUnknownTableIsNot(
      SparkSession spark, Sandbox sandbox) {
    createLog(spark);

    assertRefused(
        "PARSE_SYNTAX_ERROR", () -> spark.sql("BEGIN INSERT INTO log VALUES (1); SELEC 1; END"));
    assertThat(spark.table("log")).isEmpty();

    assertRefused(
        "TABLE_OR_VIEW_NOT_FOUND",
        () -> spark.sql("BEGIN INSERT INTO log VALUES (1); SELECT * FROM no_such_table; END"));
    assertThat(spark.table("log")).hasRows(row(1));
  }

  @Test
  void aQueryThatFindsNothingIsNoError(SparkSession spark, Sandbox sandbox) {
    createLog(spark);

    assertThat(
            spark.sql(
                """
                BEGIN
                  DECLARE found INT DEFAULT -1;
                  DECLARE EXIT HANDLER FOR NOT FOUND SELECT -2 AS found;
                  SET found = (SELECT n FROM log WHERE n = 7);
                  SELECT found;
                END
                """))
        .hasRows(row((Object) null));
  }

  /** A condition of one's own can be declared, and nothing raises it. */
  @Test
  void thereIsNoSignal(SparkSession spark) {
    assertRefused(
        "PARSE_SYNTAX_ERROR",
        () ->
            spark.sql(
                """
                BEGIN
                  DECLARE too_much CONDITION FOR SQLSTATE '45000';
                  SIGNAL too_much;
                END
                """));
    assertRefused(
        "USER_RAISED_EXCEPTION",
        () ->
            spark.sql(
                """
                BEGIN
                  DECLARE too_much CONDITION FOR SQLSTATE 'P0001';
                  DECLARE EXIT HANDLER FOR too_much SELECT 'handled';
                  SELECT raise_error('too much');
                END
                """));
    assertThat(
            spark.sql(
                """
                BEGIN
                  DECLARE EXIT HANDLER FOR SQLSTATE 'P0001' SELECT 'handled' AS outcome;
                  SELECT raise_error('too much');
                END
                """))
        .hasRows(row("handled"));
  }

  @Test
  void thereAreNoContinueHandlersAndNoParameters(SparkSession spark) {
    assertRefused(
        "UNSUPPORTED_FEATURE.CONTINUE_EXCEPTION_HANDLER",
        () ->
            spark.sql(
                "BEGIN DECLARE CONTINUE HANDLER FOR DIVIDE_BY_ZERO SELECT 1; SELECT 1 / 0; END"));
    assertRefused(
        "UNSUPPORTED_FEATURE.SQL_SCRIPTING_WITH_POSITIONAL_PARAMETERS",
        () -> spark.sql("BEGIN SELECT ?; END", new Object[] {1}));
    // github.com/delta-io/delta/issues/7640
    assertRefused("UNBOUND_SQL_PARAMETER", () -> spark.sql("BEGIN SELECT :n; END", Map.of("n", 1)));
  }

  /** Spark reads a script by itself, and Delta only what it is handed as a text. */
  @Test
  void statementsOfDeltaStandInExecuteImmediate(SparkSession spark, Sandbox sandbox) {
    createAccounts(spark);

    assertRefused("PARSE_SYNTAX_ERROR", () -> spark.sql("BEGIN OPTIMIZE accounts; END"));
    spark.sql("BEGIN EXECUTE IMMEDIATE 'OPTIMIZE accounts'; END");
  }
}
