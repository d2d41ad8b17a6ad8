package com.example.lakehouse.streaming;

import java.io.IOException;
import java.io.OutputStream;
import java.net.URI;
import java.net.URISyntaxException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.DelegateToFileSystem;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.RawLocalFileSystem;
import org.apache.hadoop.fs.permission.FsPermission;
import org.apache.hadoop.util.Progressable;
import org.apache.spark.sql.SparkSession;

/**
 * A folder on a disk that is soon full: a tmpfs of a few megabytes where one may be mounted, which
 * takes root on Linux; else a file system that refuses to write more than so many bytes, as a full
 * disk does.
 */
final class SmallDisk implements AutoCloseable {
  private static final int MEGABYTES = 4;

  private final Path folder;
  private final boolean mounted;

  private SmallDisk(Path folder, boolean mounted) {
    this.folder = folder;
    this.mounted = mounted;
  }

  static SmallDisk in(SparkSession spark, Path parent) throws Exception {
    Path folder = Files.createDirectory(parent.resolve("small-disk"));
    boolean mounted =
        run("mount", "-t", "tmpfs", "-o", "size=" + MEGABYTES + "m", "tmpfs", folder.toString());
    if (!mounted) {
      Configuration conf = spark.sparkContext().hadoopConfiguration();
      conf.set("fs.small.impl", Limited.class.getName());
      conf.set("fs.AbstractFileSystem.small.impl", LimitedContext.class.getName());
      Limited.LEFT.set(MEGABYTES << 20);
    }
    return new SmallDisk(folder, mounted);
  }

  /** For Spark. */
  String path(String name) {
    return (mounted ? "file:" : "small:") + folder.resolve(name);
  }

  /** Somebody makes room. */
  void grow() throws Exception {
    if (!mounted) {
      Limited.LEFT.set(Long.MAX_VALUE);
    } else if (!run("mount", "-o", "remount,size=256m", folder.toString())) {
      throw new IOException("cannot remount " + folder);
    }
  }

  @Override
  public void close() throws Exception {
    if (mounted && !run("umount", folder.toString())) {
      throw new IOException("cannot unmount " + folder);
    }
  }

  private static boolean run(String... command) throws InterruptedException {
    try {
      return new ProcessBuilder(command)
              .redirectErrorStream(true)
              .redirectOutput(ProcessBuilder.Redirect.DISCARD)
              .start()
              .waitFor()
          == 0;
    } catch (IOException e) {
      // There is no such command here.
      return false;
    }
  }

  /** Local files, of which only so many bytes may be written. */
  public static final class Limited extends RawLocalFileSystem {
    static final AtomicLong LEFT = new AtomicLong();

    @Override
    public String getScheme() {
      return "small";
    }

    @Override
    public URI getUri() {
      return URI.create("small:///");
    }

    @Override
    public FSDataOutputStream create(
        org.apache.hadoop.fs.Path file,
        FsPermission permission,
        boolean overwrite,
        int bufferSize,
        short replication,
        long blockSize,
        Progressable progress)
        throws IOException {
      return limited(
          super.create(file, permission, overwrite, bufferSize, replication, blockSize, progress));
    }

    @Override
    public FSDataOutputStream create(
        org.apache.hadoop.fs.Path file,
        boolean overwrite,
        int bufferSize,
        short replication,
        long blockSize,
        Progressable progress)
        throws IOException {
      return limited(super.create(file, overwrite, bufferSize, replication, blockSize, progress));
    }

    private static FSDataOutputStream limited(OutputStream out) {
      return new FSDataOutputStream(
          new OutputStream() {
            @Override
            public void write(int b) throws IOException {
              write(new byte[] {(byte) b}, 0, 1);
            }

            @Override
            public void write(byte[] bytes, int from, int length) throws IOException {
              if (LEFT.addAndGet(-length) < 0) {
                throw new IOException("No space left on device");
              }
              out.write(bytes, from, length);
            }

            @Override
            public void flush() throws IOException {
              out.flush();
            }

            @Override
            public void close() throws IOException {
              out.close();
            }
          },
          null);
    }
  }

  /** The same by Hadoop's other interface, through which commits and checkpoints are written. */
  public static final class LimitedContext extends DelegateToFileSystem {
    public LimitedContext(URI uri, Configuration conf) throws IOException, URISyntaxException {
      super(uri, new Limited(), conf, "small", false);
    }
  }
}
