package com.example.lakehouse.sql;

import com.example.lakehouse.common.Notebook;
import io.delta.tables.DeltaTable;
import java.math.BigDecimal;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * SQL scripts: variables, loops, conditions and handlers between BEGIN and END, in one text that
 * runs as it stands; a script is no transaction.
 *
 * <p>Run: {@code ./run SqlScripting}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a loan paid off month by month; transfers of which two are refused and the others go on;
 * a load that fails half way and leaves the table as it was.
 *
 * <p>On Databricks: the same scripts; there they also take parameters, and have {@code SIGNAL} and
 * {@code GET DIAGNOSTICS}, which Spark 4.1 has not.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-ref-scripting.html">Spark SQL: SQL
 *     scripting</a>
 */
public final class SqlScripting {

  private SqlScripting() {}

  /**
   * Pays a loan off, with 1 % interest a month. Each month needs the one before, which is what a
   * loop is for; the rows are gathered and come out at once.
   *
   * @return {@code month INT, interest DECIMAL(12,2), debt DECIMAL(12,2)}, until the debt is 0
   * @throws org.apache.spark.SparkRuntimeException USER_RAISED_EXCEPTION if the instalment does not
   *     cover the interest
   */
  public static Dataset<Row> instalments(
      SparkSession spark, BigDecimal loan, BigDecimal instalment) {
    // With Delta's parser a script takes no parameters; variables of the session do as well.
    spark.sql("DECLARE OR REPLACE VARIABLE loan DECIMAL(12,2)");
    spark.sql("SET VARIABLE loan = :loan", Map.of("loan", loan));
    spark.sql("DECLARE OR REPLACE VARIABLE instalment DECIMAL(12,2)");
    spark.sql("SET VARIABLE instalment = :instalment", Map.of("instalment", instalment));
    return spark.sql(
        """
        BEGIN
          DECLARE month INT DEFAULT 0;
          DECLARE debt DECIMAL(12,2) DEFAULT session.loan;
          DECLARE interest DECIMAL(12,2);
          DECLARE months ARRAY<STRUCT<month INT, interest DECIMAL(12,2), debt DECIMAL(12,2)>>
            DEFAULT array();
          WHILE debt > 0 DO
            SET month = month + 1;
            SET interest = round(debt * 0.01, 2);
            IF session.instalment <= interest THEN
              SELECT raise_error('this debt never ends');
            END IF;
            SET debt = greatest(0, debt + interest - session.instalment);
            SET months = array_append(
              months, named_struct('month', month, 'interest', interest, 'debt', debt));
          END WHILE;
          SELECT inline(months);
        END
        """);
  }

  /**
   * Makes the transfers of {@code transfers} in order. One that cannot be made is raised as an
   * error, which the handler of its own block takes; the loop goes on with the next.
   *
   * <p>Both accounts change in one {@code UPDATE}, so that no error can come between them.
   *
   * @return {@code transfer_id BIGINT, outcome STRING}: done or refused
   */
  public static Dataset<Row> settle(SparkSession spark) {
    return spark.sql(
        """
        BEGIN
          DECLARE possible BOOLEAN;
          DECLARE outcomes ARRAY<STRUCT<transfer_id BIGINT, outcome STRING>> DEFAULT array();
          FOR t AS SELECT * FROM transfers ORDER BY transfer_id DO
            BEGIN
              DECLARE EXIT HANDLER FOR USER_RAISED_EXCEPTION
              BEGIN
                SET outcomes = array_append(
                  outcomes, named_struct('transfer_id', t.transfer_id, 'outcome', 'refused'));
              END;
              SET possible = (
                SELECT count(*) = 2 AND min(IF(account = t.payer, balance, NULL)) >= t.amount
                FROM accounts
                WHERE account IN (t.payer, t.payee)
              );
              IF NOT possible THEN
                SELECT raise_error('no such account, or too little money');
              END IF;
              UPDATE accounts
              SET balance = balance + IF(account = t.payee, t.amount, -t.amount)
              WHERE account IN (t.payer, t.payee);
              SET outcomes = array_append(
                outcomes, named_struct('transfer_id', t.transfer_id, 'outcome', 'done'));
            END;
          END FOR;
          SELECT inline(outcomes);
        END
        """);
  }

  /**
   * Replaces {@code accounts} by {@code statements}, where balances are text. Each statement of a
   * script is a commit of its own: if the second fails, the handler takes the first back.
   *
   * <p>For a table that nobody else writes to: {@code RESTORE} takes back their commits as well.
   * Where one statement can do it, such as {@code INSERT OVERWRITE}, nothing has to be taken back.
   *
   * @throws org.apache.spark.SparkRuntimeException USER_RAISED_EXCEPTION if a balance is no number;
   *     the table has the rows that it had
   */
  public static void reload(SparkSession spark) {
    long version = DeltaTable.forName(spark, "accounts").history(1).first().getAs("version");
    spark.sql("DECLARE OR REPLACE VARIABLE version_before BIGINT");
    spark.sql("SET VARIABLE version_before = :version", Map.of("version", version));
    spark.sql(
        """
        BEGIN
          DECLARE EXIT HANDLER FOR SQLEXCEPTION
          BEGIN
            EXECUTE IMMEDIATE 'RESTORE TABLE accounts TO VERSION AS OF ' || session.version_before;
            SELECT raise_error('not loaded: the accounts are as they were');
          END;
          DELETE FROM accounts;
          INSERT INTO accounts
          SELECT account, CAST(balance AS DECIMAL(12,2)) FROM statements;
        END
        """);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        SqlScripting.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();

          notebook.step("A loop: 1,000.00 at 1 % a month, paid off with 220.00 a month");
          notebook.table(
              "the debt after each month",
              instalments(spark, new BigDecimal("1000.00"), new BigDecimal("220.00")));
          notebook.refused(
              "9.00 a month is less than the interest",
              "USER_RAISED_EXCEPTION",
              () -> instalments(spark, new BigDecimal("1000.00"), new BigDecimal("9.00")));

          notebook.step("A handler: transfers, each possible or not after those before it");
          spark.sql("CREATE TABLE accounts (account STRING, balance DECIMAL(12,2)) USING delta");
          spark.sql("INSERT INTO accounts VALUES ('ada', 100.00), ('grace', 50.00)");
          spark.sql(
              """
              CREATE TABLE transfers USING delta AS
              SELECT * FROM VALUES
                (1L, 'grace', 'ada', 80.00BD), (2L, 'ada', 'grace', 70.00BD),
                (3L, 'grace', 'ada', 80.00BD), (4L, 'ada', 'nobody', 1.00BD)
                AS transfers (transfer_id, payer, payee, amount)
              """);
          notebook.table("transfers", spark.table("transfers").orderBy("transfer_id"));
          notebook.table("what became of them", settle(spark));
          notebook.table("accounts", spark.table("accounts").orderBy("account"));

          notebook.step("No transaction: a load that fails half way has to be taken back");
          spark.sql(
              """
              CREATE TABLE statements USING delta AS
              SELECT * FROM VALUES ('ada', '110.00'), ('grace', 'forty') AS s (account, balance)
              """);
          notebook.refused(
              "The second statement failed, after the first had emptied the table",
              "USER_RAISED_EXCEPTION",
              () -> reload(spark));
          notebook.table("accounts", spark.table("accounts").orderBy("account"));
          notebook.table(
              "its versions",
              DeltaTable.forName(spark, "accounts")
                  .history(2)
                  .select("version", "operation")
                  .orderBy("version"));
        });
  }
}
