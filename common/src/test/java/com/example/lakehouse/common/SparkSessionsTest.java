package com.example.lakehouse.common;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatCode;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.testing.SparkTest;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.time.Instant;
import java.time.LocalDate;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.AnalysisException;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

@SparkTest
class SparkSessionsTest {

  @Test
  void aSystemPropertyWinsOverADefault() throws Exception {
    ChildJvm child =
        ChildJvm.run(
            PrintSettings.class,
            List.of(
                "-Dspark.master=local[3]",
                "-Dspark.sql.shuffle.partitions=7",
                "-Dspark.sql.session.timeZone=Europe/Berlin"));

    assertThat(child.output()).contains("local[3] 7 Europe/Berlin 127.0.0.1");
    assertThat(child.exitCode()).isZero();
  }

  /** Prints what the session has, for the test of system properties. */
  static final class PrintSettings {
    private PrintSettings() {}

    public static void main(String[] args) {
      SparkSession spark = SparkSessions.open("settings");
      System.out.println(
          String.join(
              " ",
              spark.sparkContext().master(),
              spark.conf().get("spark.sql.shuffle.partitions"),
              spark.conf().get("spark.sql.session.timeZone"),
              spark.conf().get("spark.driver.bindAddress")));
      SparkSessions.close(spark);
    }
  }

  @Test
  void aRunningSessionIsUsedAsItIs(SparkSession spark) {
    assertThat(SparkSessions.open("another name").sparkContext()).isSameAs(spark.sparkContext());
  }

  @Test
  void namedParametersWorkUnderDeltasParser(SparkSession spark) {
    List<Row> rows = spark.sql("SELECT :city AS city", Map.of("city", "Rome")).collectAsList();

    assertThat(rows.get(0).getString(0)).isEqualTo("Rome");
  }

  @Test
  void namedParametersFailWithoutTheSettingThatMendsThem(SparkSession spark) {
    SparkSession without = spark.newSession();
    without.conf().set("spark.sql.legacy.parameterSubstitution.constantsOnly", "false");

    assertThatThrownBy(() -> without.sql("SELECT :city AS city", Map.of("city", "Rome")).collect())
        .isInstanceOfSatisfying(
            AnalysisException.class,
            e -> assertThat(e.getCondition()).isEqualTo("UNBOUND_SQL_PARAMETER"));
    spark.sql("SELECT 1").collect();
  }

  @Test
  void datesAndTimestampsAreOfJavaTime(SparkSession spark) {
    Row row =
        spark.sql("SELECT DATE'2025-03-01', TIMESTAMP'2025-03-01 12:00:00'").collectAsList().get(0);

    assertThat(row.<Object>getAs(0)).isEqualTo(LocalDate.of(2025, 3, 1));
    assertThat(row.<Object>getAs(1)).isEqualTo(Instant.parse("2025-03-01T12:00:00Z"));
  }

  @ParameterizedTest
  @ValueSource(ints = {11, 18, 25})
  void aWrongJdkIsNamedWithTheRightOnes(int feature) {
    assertThatThrownBy(() -> SparkSessions.requireSupportedJava(feature))
        .isInstanceOf(SetupException.class)
        .hasMessage(
            "Java %d is not supported: run with JDK 17 or 21 (set JAVA_HOME, or the IDE's project JDK).",
            feature);
  }

  @ParameterizedTest
  @ValueSource(ints = {17, 21})
  void supportedJdksPass(int feature) {
    assertThatCode(() -> SparkSessions.requireSupportedJava(feature)).doesNotThrowAnyException();
  }

  @Test
  void aMasterThatCannotBeReachedIsOneClearLine() throws Exception {
    int freePort;
    try (ServerSocket socket = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
      freePort = socket.getLocalPort();
    }
    String master = "spark://127.0.0.1:" + freePort;

    ChildJvm child = ChildJvm.run(PrintSettings.class, List.of("-Dspark.master=" + master));

    assertThat(child.exitCode()).isEqualTo(1);
    // Some JDKs add "(connect failed)" to the reason.
    assertThat(child.output().strip())
        .matches(
            "Exception in thread \"main\" com.example.lakehouse.common.SetupException: The Spark master "
                + master
                + " cannot be reached \\(Connection refused.*\\): start it, or leave out --master to run on this machine\\.");
  }

  @Test
  void anotherMasterThanTheRunningSessionsIsRefused(SparkSession spark) {
    String before = System.getProperty("spark.master");
    System.setProperty("spark.master", "local[9]");
    try {
      assertThatThrownBy(() -> SparkSessions.open("second"))
          .isInstanceOf(SetupException.class)
          .hasMessage(
              "A Spark session with spark.master=%s runs already, and spark.master=local[9] is asked for:"
                  + " stop that session first, or leave the setting out.",
              spark.sparkContext().master());
    } finally {
      if (before == null) {
        System.clearProperty("spark.master");
      } else {
        System.setProperty("spark.master", before);
      }
    }
  }

  @Test
  void aRunningSessionWithoutDeltaIsRefused() throws Exception {
    ChildJvm child = ChildJvm.run(OpenBesidePlainSession.class, List.of());

    assertThat(child.output())
        .contains("The Spark session that runs already has no Delta Lake: stop it first");
    assertThat(child.exitCode()).isEqualTo(1);
  }

  /** Opens a session where one without Delta Lake runs. */
  static final class OpenBesidePlainSession {
    private OpenBesidePlainSession() {}

    public static void main(String[] args) {
      SparkSession.builder()
          .master("local[1]")
          .config("spark.driver.bindAddress", "127.0.0.1")
          .config("spark.driver.host", "127.0.0.1")
          .config("spark.ui.enabled", "false")
          .getOrCreate();
      SparkSessions.open("second");
    }
  }
}
