package com.example.lakehouse.common.testing;

import static scala.jdk.javaapi.CollectionConverters.asJava;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.SparkSessions;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeoutException;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.junit.jupiter.api.extension.AfterEachCallback;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.junit.jupiter.api.extension.ExtensionContext.Namespace;
import org.junit.jupiter.api.extension.ExtensionContext.Store;
import org.junit.jupiter.api.extension.ParameterContext;
import org.junit.jupiter.api.extension.ParameterResolver;

final class SparkExtension implements ParameterResolver, AfterEachCallback {
  private static final Namespace NAMESPACE = Namespace.create(SparkExtension.class);

  /**
   * JUnit closes it when the JVM's last test has run. A session that was there before is left
   * alone: it belongs to a run of tests around this one.
   */
  private record Session(SparkSession spark, boolean ours) implements AutoCloseable {
    static Session open() {
      boolean ours = SparkSessions.running().isEmpty();
      // How many files, tasks and bytes there are follows from the cores: the same on each machine.
      if (ours && System.getProperty("spark.master") == null) {
        System.setProperty("spark.master", "local[2]");
      }
      return new Session(SparkSessions.open("tests"), ours);
    }

    @Override
    public void close() {
      if (ours) {
        SparkSessions.close(spark);
      }
    }
  }

  @Override
  public boolean supportsParameter(ParameterContext parameter, ExtensionContext context) {
    Class<?> type = parameter.getParameter().getType();
    return type == SparkSession.class || type == Sandbox.class;
  }

  @Override
  public Object resolveParameter(ParameterContext parameter, ExtensionContext context) {
    SparkSession spark = session(context);
    return parameter.getParameter().getType() == SparkSession.class
        ? spark
        : context
            .getStore(NAMESPACE)
            .getOrComputeIfAbsent(
                Sandbox.class,
                key -> new Sandbox(spark, context.getRequiredTestClass().getSimpleName(), false),
                Sandbox.class);
  }

  @Override
  public void afterEach(ExtensionContext context) throws TimeoutException {
    List<String> leaked = new ArrayList<>();
    for (StreamingQuery query : session(context).streams().active()) {
      leaked.add(query.name() == null ? query.id().toString() : query.name());
      query.stop();
    }
    // Of a test without a sandbox too, and of one whose sandbox came after them.
    SparkSession spark = session(context);
    asJava(spark.sessionState().catalog().getTempViewNames())
        .forEach(spark.catalog()::dropTempView);
    Store store = context.getStore(NAMESPACE);
    Sandbox sandbox = store.remove(Sandbox.class, Sandbox.class);
    if (sandbox != null) {
      sandbox.close();
    }
    if (!leaked.isEmpty()) {
      throw new AssertionError("the test left streaming queries running: " + leaked);
    }
  }

  private static SparkSession session(ExtensionContext context) {
    return context
        .getRoot()
        .getStore(NAMESPACE)
        .getOrComputeIfAbsent(Session.class, key -> Session.open(), Session.class)
        .spark();
  }
}
