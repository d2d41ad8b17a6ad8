package com.example.lakehouse.streaming;

import com.example.lakehouse.streaming.support.EmbeddedKafka;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.annotation.ElementType;
import java.lang.annotation.Retention;
import java.lang.annotation.RetentionPolicy;
import java.lang.annotation.Target;
import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.commons.io.FileUtils;
import org.junit.jupiter.api.extension.ExtendWith;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.junit.jupiter.api.extension.ExtensionContext.Namespace;
import org.junit.jupiter.api.extension.ParameterContext;
import org.junit.jupiter.api.extension.ParameterResolver;

/**
 * Gives test methods an {@code EmbeddedKafka} as a parameter: one broker for the JVM, which tests
 * share and do not stop. A test makes its own topics; one that stops the broker starts its own.
 */
@Target(ElementType.TYPE)
@Retention(RetentionPolicy.RUNTIME)
@ExtendWith(KafkaTest.Extension.class)
@interface KafkaTest {

  /** Starts the broker for the first test that asks; it ends with the run of all tests. */
  final class Extension implements ParameterResolver {

    @Override
    public boolean supportsParameter(ParameterContext parameter, ExtensionContext context) {
      return parameter.getParameter().getType() == EmbeddedKafka.class;
    }

    @Override
    public Object resolveParameter(ParameterContext parameter, ExtensionContext context) {
      return context
          .getRoot()
          .getStore(Namespace.create(KafkaTest.class))
          .getOrComputeIfAbsent(Broker.class, key -> Broker.start(), Broker.class)
          .kafka();
    }
  }

  /** The broker and the folder of its data. */
  record Broker(EmbeddedKafka kafka, Path folder) implements AutoCloseable {

    static Broker start() {
      try {
        Path folder = Files.createTempDirectory("lakehouse-kafka-");
        return new Broker(EmbeddedKafka.start(folder), folder);
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }

    @Override
    public void close() throws IOException {
      kafka.close();
      FileUtils.deleteDirectory(folder.toFile());
    }
  }
}
