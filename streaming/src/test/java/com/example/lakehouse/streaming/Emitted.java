package com.example.lakehouse.streaming;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeoutException;
import org.apache.spark.api.java.function.VoidFunction2;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.streaming.StreamingQuery;

/** A running query, and the rows that its batches emit. */
final class Emitted implements AutoCloseable {
  private final List<Row> rows = new ArrayList<>();
  private final List<Rows> sources;
  private final StreamingQuery query;

  /**
   * Starts {@code result}, which reads {@code sources}, in an output mode: append, update or
   * complete.
   */
  Emitted(Dataset<Row> result, String outputMode, Rows... sources) throws TimeoutException {
    this.sources = List.of(sources);
    query =
        result
            .writeStream()
            .outputMode(outputMode)
            .foreachBatch(
                (VoidFunction2<Dataset<Row>, Long>)
                    (batch, id) -> {
                      synchronized (rows) {
                        rows.addAll(batch.collectAsList());
                      }
                    })
            .start();
  }

  /**
   * Works off what was added, and gives what came out, as text. Of one source it is one batch; of
   * several it may be more, for a batch can begin between them.
   */
  List<String> next() {
    sources.forEach(Rows::arrive);
    query.processAllAvailable();
    synchronized (rows) {
      List<String> emitted = rows.stream().map(row -> row.mkString(" ")).toList();
      rows.clear();
      return emitted;
    }
  }

  StreamingQuery query() {
    return query;
  }

  @Override
  public void close() throws TimeoutException {
    query.stop();
  }
}
