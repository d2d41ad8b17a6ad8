package com.example.lakehouse.mlflow;

import com.example.lakehouse.common.SetupException;
import com.example.lakehouse.mlflow.support.MlflowServer;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.function.Supplier;
import org.apache.commons.io.FileUtils;
import org.junit.jupiter.api.extension.BeforeAllCallback;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.junit.jupiter.api.extension.ExtensionContext.Namespace;
import org.junit.jupiter.api.extension.ParameterContext;
import org.junit.jupiter.api.extension.ParameterResolver;
import org.opentest4j.TestAbortedException;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** See {@link MlflowTest}. */
public final class MlflowExtension implements BeforeAllCallback, ParameterResolver {
  private static final Logger LOG = LoggerFactory.getLogger(MlflowExtension.class);
  private static final Namespace NAMESPACE = Namespace.create(MlflowExtension.class);

  /** The server and the folder of its data, until the JVM's last test has run. */
  private record Shared(MlflowServer server, Path folder) implements AutoCloseable {

    static Shared start() {
      try {
        Path folder = Files.createTempDirectory("lakehouse-mlflow-");
        try {
          return new Shared(orSkip(() -> MlflowServer.open(folder)), folder);
        } catch (RuntimeException e) {
          FileUtils.deleteDirectory(folder.toFile());
          throw e;
        }
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }

    @Override
    public void close() throws IOException {
      server.close();
      FileUtils.deleteDirectory(folder.toFile());
    }
  }

  /**
   * What {@code setup} gives: a server or a Python environment.
   *
   * @throws TestAbortedException if this machine lacks what it takes; the test is then skipped
   * @throws SetupException the same, under {@code CI=true}
   */
  public static <T> T orSkip(Supplier<T> setup) {
    try {
      return setup.get();
    } catch (SetupException e) {
      if ("true".equals(System.getenv("CI"))) {
        throw e;
      }
      LOG.warn("Tests are skipped. {}", e.getMessage());
      throw new TestAbortedException(e.getMessage(), e);
    }
  }

  @Override
  public void beforeAll(ExtensionContext context) {
    // A parameter that cannot be resolved would be a failure, never a skipped test.
    server(context);
  }

  @Override
  public boolean supportsParameter(ParameterContext parameter, ExtensionContext context) {
    return parameter.getParameter().getType() == MlflowServer.class;
  }

  @Override
  public Object resolveParameter(ParameterContext parameter, ExtensionContext context) {
    return server(context);
  }

  private static MlflowServer server(ExtensionContext context) {
    return context
        .getRoot()
        .getStore(NAMESPACE)
        .getOrComputeIfAbsent(Shared.class, key -> Shared.start(), Shared.class)
        .server();
  }
}
