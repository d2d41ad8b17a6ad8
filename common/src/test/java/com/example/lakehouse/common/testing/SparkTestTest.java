package com.example.lakehouse.common.testing;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.platform.engine.discovery.DiscoverySelectors.selectMethod;

import com.example.lakehouse.common.Sandbox;
import java.nio.file.Path;
import java.util.concurrent.TimeoutException;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Test;
import org.junit.platform.testkit.engine.EngineTestKit;
import org.junit.platform.testkit.engine.Events;

@SparkTest
class SparkTestTest {
  private static Path lastFolder;

  /** Not named as a test: it is run by the tests below. */
  @SparkTest
  static class Fixture {
    @Test
    void leavesAStreamRunning(SparkSession spark, Sandbox sandbox) throws TimeoutException {
      lastFolder = sandbox.folder();
      spark
          .readStream()
          .format("rate")
          .load()
          .writeStream()
          .queryName("forgotten")
          .format("memory")
          .option("checkpointLocation", sandbox.path("checkpoint"))
          .start();
    }

    @Test
    void leavesAView(SparkSession spark, Sandbox sandbox) {
      lastFolder = sandbox.folder();
      spark.range(1).createOrReplaceTempView("left");
    }

    @Test
    void leavesNothing(SparkSession spark, Sandbox sandbox) {
      lastFolder = sandbox.folder();
      assertThat(sandbox.folder()).isDirectory();
      assertThat(spark.catalog().currentDatabase()).isEqualTo(sandbox.schema());
    }
  }

  private static Events run(String method) {
    return EngineTestKit.engine("junit-jupiter")
        .selectors(
            selectMethod(
                Fixture.class,
                method,
                SparkSession.class.getName() + ", " + Sandbox.class.getName()))
        .execute()
        .testEvents();
  }

  @Test
  void aTestThatLeavesAStreamRunningFailsAndTheStreamIsStopped(SparkSession spark) {
    Events events = run("leavesAStreamRunning");

    assertThat(events.failed().count()).isEqualTo(1);
    assertThat(events.failed().stream().findFirst().orElseThrow().getPayload().toString())
        .contains("the test left streaming queries running: [forgotten]");
    assertThat(spark.streams().active()).isEmpty();
    assertThat(lastFolder).doesNotExist();
  }

  @Test
  void aViewThatATestLeavesIsGoneAfterIt(SparkSession spark) {
    assertThat(run("leavesAView").succeeded().count()).isEqualTo(1);
    assertThat(spark.catalog().tableExists("left")).isFalse();
  }

  @Test
  void aTestThatLeavesNothingPassesAndItsSandboxIsGone(SparkSession spark) {
    assertThat(run("leavesNothing").succeeded().count()).isEqualTo(1);
    assertThat(lastFolder).doesNotExist();
    assertThat(spark.sparkContext().isStopped()).isFalse();
  }
}
