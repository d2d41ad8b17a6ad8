package com.example.lakehouse.streaming.support;

import com.example.lakehouse.common.ChildJvm;
import com.example.lakehouse.common.SparkSessions;
import com.example.lakehouse.streaming.ExactlyOnce;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;
import org.apache.spark.sql.SparkSession;

/** {@link ExactlyOnce#ingest} in a process of its own, which can be killed. */
public final class IngestProcess implements AutoCloseable {
  private final Process process;
  private final Path log;

  private IngestProcess(Process process, Path log) {
    this.process = process;
    this.log = log;
  }

  /** Starts the job; it runs until it is killed or closed. */
  public static IngestProcess start(String servers, String topic, String table, String checkpoint)
      throws IOException {
    Path log = Files.createTempFile("ingest-", ".log");
    List<String> command =
        ChildJvm.command(IngestProcess.class, List.of("-Xmx1g"), servers, topic, table, checkpoint);
    Process process =
        new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(log.toFile()).start();
    return new IngestProcess(process, log);
  }

  /** Ends the process as a crash would: with SIGKILL. */
  public void kill() throws InterruptedException {
    process.toHandle().destroyForcibly();
    process.waitFor();
  }

  /**
   * Checks that the job still runs.
   *
   * @throws IllegalStateException with what it has printed, if it has ended
   */
  public void requireAlive() throws IOException {
    if (!process.isAlive()) {
      throw new IllegalStateException("the job has ended:\n" + Files.readString(log));
    }
  }

  /**
   * Waits until the job has come so far, at most two minutes.
   *
   * @throws IllegalStateException with what the job has printed, if it has ended or the time is
   *     over
   */
  public void await(BooleanSupplier soFar) throws IOException {
    long deadline = System.nanoTime() + TimeUnit.MINUTES.toNanos(2);
    while (!soFar.getAsBoolean()) {
      requireAlive();
      if (System.nanoTime() > deadline) {
        throw new IllegalStateException(
            "the job has not come far enough in two minutes:\n" + Files.readString(log));
      }
    }
  }

  @Override
  public void close() throws InterruptedException, IOException {
    kill();
    Files.deleteIfExists(log);
  }

  /** The process: brokers, topic, table and checkpoint. */
  public static void main(String[] args) throws Exception {
    SparkSession spark = SparkSessions.open("ingest");
    ExactlyOnce.ingest(spark, args[0], args[1], args[2], args[3]).awaitTermination();
  }
}
