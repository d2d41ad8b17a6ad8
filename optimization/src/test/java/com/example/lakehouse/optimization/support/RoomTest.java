package com.example.lakehouse.optimization.support;

import static org.assertj.core.api.Assertions.assertThatCode;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.SetupException;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;

class RoomTest {
  private static final long GB = 1_000_000_000;
  private static final Path FOLDER = Path.of("sandbox");

  @Test
  void aScaleThatFitsIsTaken() {
    assertThatCode(() -> Room.check(1_000_000, 100, 8, FOLDER, GB, GB)).doesNotThrowAnyException();
  }

  @Test
  void aScaleThatDoesNotFitTheDiskIsRefusedWithWhatItNeeds() {
    assertThatThrownBy(() -> Room.check(50_000_000, 100, 0, FOLDER, 2 * GB, GB))
        .isInstanceOf(SetupException.class)
        .hasMessage(
            "50,000,000 rows need about 5.0 GB of disk at sandbox, where 2.0 GB are free: take a"
                + " smaller --scale, or -Djava.io.tmpdir=FOLDER on a larger disk (in JAVA_OPTS).");
  }

  @Test
  void aScaleThatDoesNotFitTheHeapIsRefusedWithWhatItNeeds() {
    assertThatThrownBy(() -> Room.check(50_000_000, 0, 50, FOLDER, GB, GB))
        .isInstanceOf(SetupException.class)
        .hasMessage(
            "50,000,000 rows need about 2.5 GB of heap, and this JVM has 1.0 GB: take a smaller"
                + " --scale, or -Xmx3g (in JAVA_OPTS).");
  }

  @Test
  void theLargestScaleThatThereIsDoesNotOverflow() {
    assertThatThrownBy(() -> Room.check(Long.MAX_VALUE, 100, 0, FOLDER, GB, GB))
        .isInstanceOf(SetupException.class);
  }
}
