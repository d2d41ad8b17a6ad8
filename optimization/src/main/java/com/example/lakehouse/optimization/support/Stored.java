package com.example.lakehouse.optimization.support;

import static scala.jdk.javaapi.CollectionConverters.asJava;

import org.apache.spark.SparkEnv;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.storage.BlockStatus;
import org.apache.spark.storage.RDDBlockId;
import org.apache.spark.storage.StorageStatus;

/**
 * What the caches of a session hold now, as Spark's block manager has it. The state of Delta's
 * tables, which Delta caches for itself, is left out.
 *
 * @param partitions partitions that are there, wherever they are
 * @param memoryBytes their bytes in memory
 * @param diskBytes their bytes on disk
 */
public record Stored(int partitions, long memoryBytes, long diskBytes) {

  /** All caches of {@code spark} together. */
  public static Stored of(SparkSession spark) {
    Stored sum = new Stored(0, 0, 0);
    var caches = asJava(spark.sparkContext().getPersistentRDDs());
    for (StorageStatus executor : SparkEnv.get().blockManager().master().getStorageStatus()) {
      for (var block : asJava(executor.rddBlocks()).entrySet()) {
        var cache = caches.get(((RDDBlockId) block.getKey()).rddId());
        boolean ofDelta =
            cache == null || String.valueOf(cache.name()).startsWith("Delta Table State");
        BlockStatus status = block.getValue();
        if (!ofDelta && status.isCached()) {
          sum =
              new Stored(
                  sum.partitions + 1,
                  sum.memoryBytes + status.memSize(),
                  sum.diskBytes + status.diskSize());
        }
      }
    }
    return sum;
  }
}
