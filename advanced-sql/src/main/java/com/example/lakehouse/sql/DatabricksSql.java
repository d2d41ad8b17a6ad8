package com.example.lakehouse.sql;

import com.example.lakehouse.common.Notebook;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.math.BigDecimal;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import org.apache.spark.sql.SparkSession;

/**
 * Databricks SQL: the same statement with the same parameters in this session and, over HTTP alone,
 * on a SQL warehouse.
 *
 * <p>Run: {@code ./run DatabricksSql}, or Run in the IDE; without a warehouse it runs here and says
 * so. With one, set {@code DATABRICKS_HOST}, {@code DATABRICKS_WAREHOUSE_ID} and {@code
 * DATABRICKS_TOKEN}.
 *
 * <p>See: which customers make the turnover, from the shop or from the warehouse's {@code
 * samples.tpch}.
 *
 * <p>On Databricks: this is how a program outside of it asks; inside, {@code spark.sql} does.
 *
 * @see <a href="https://docs.databricks.com/api/workspace/statementexecution">Databricks: Statement
 *     Execution API</a>
 */
public final class DatabricksSql {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final HttpClient HTTP =
      HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(20)).build();
  private static final int MAX_TRIES = 5;

  /** The customers by falling turnover, in classes: A makes the first 80 %, B the next 15 %. */
  public static final String REPORT =
      """
      WITH customers AS (
        SELECT o_custkey, sum(o_totalprice) AS turnover
        FROM IDENTIFIER(:orders)
        WHERE o_orderdate >= :since
        GROUP BY o_custkey
      ),
      shares AS (
        SELECT turnover,
          sum(turnover) OVER (
            ORDER BY turnover DESC, o_custkey ROWS UNBOUNDED PRECEDING
          ) / sum(turnover) OVER () AS share
        FROM customers
      )
      SELECT CASE WHEN share <= 0.80 THEN 'A' WHEN share <= 0.95 THEN 'B' ELSE 'C' END AS class,
        count(*) AS customers, sum(turnover) AS turnover
      FROM shares
      GROUP BY ALL
      ORDER BY class
      """;

  private DatabricksSql() {}

  /**
   * Where a statement runs.
   *
   * @param host such as {@code https://adb-1.2.azuredatabricks.net}; plain HTTP to this machine
   *     only
   * @param token a personal access token, or an OAuth token; it is sent to {@code host}, and is in
   *     no text that this class makes
   * @param pause between two looks at a statement, and before the second try of a request that is
   *     put off; each further try waits twice as long
   * @param timeout for a statement, after which it is cancelled
   */
  public record Warehouse(URI host, String id, String token, Duration pause, Duration timeout) {
    /** Refuses what would leak the token: a header of it that is none is quoted in an exception. */
    public Warehouse {
      if (!"https".equals(host.getScheme())
          && !Set.of("127.0.0.1", "localhost").contains(String.valueOf(host.getHost()))) {
        throw new IllegalArgumentException("the host must be an https address: " + host);
      }
      if (!token.matches("[\\x21-\\x7e]+")) {
        throw new IllegalArgumentException("the token is empty, or has characters no token has");
      }
    }

    @Override
    public String toString() {
      return "warehouse " + id + " at " + host;
    }
  }

  /** A result as the warehouse sends it, where each value is text or null. */
  public record Result(List<String> columns, List<List<String>> rows) {}

  /**
   * Runs a statement to its end and fetches its whole result.
   *
   * @param parameters by name, such as {@code :since}: text, numbers, booleans and dates
   * @throws IllegalStateException if the statement fails, is cancelled or takes too long, or if its
   *     result is cut off
   * @throws IOException if the warehouse refuses the request or cannot be reached
   */
  public static Result execute(Warehouse warehouse, String sql, Map<String, Object> parameters)
      throws IOException, InterruptedException {
    ObjectNode body = JSON.createObjectNode();
    body.put("warehouse_id", warehouse.id()).put("statement", sql);
    body.put("wait_timeout", "10s").put("on_wait_timeout", "CONTINUE");
    body.put("disposition", "INLINE").put("format", "JSON_ARRAY");
    parameters.forEach(
        (name, value) ->
            body.withArray("parameters")
                .addObject()
                .put("name", name)
                .put("value", value.toString())
                .put("type", typeOf(value)));
    JsonNode reply = send(warehouse, "POST", "/api/2.0/sql/statements", body.toString());
    String statement = "/api/2.0/sql/statements/" + reply.path("statement_id").asText();
    long deadline = System.nanoTime() + warehouse.timeout().toNanos();
    while (Set.of("PENDING", "RUNNING").contains(reply.path("status").path("state").asText())) {
      if (System.nanoTime() > deadline) {
        send(warehouse, "POST", statement + "/cancel", "");
        throw new IllegalStateException("cancelled after " + warehouse.timeout());
      }
      TimeUnit.MILLISECONDS.sleep(warehouse.pause().toMillis());
      reply = send(warehouse, "GET", statement, "");
    }
    if (!reply.path("status").path("state").asText().equals("SUCCEEDED")) {
      throw new IllegalStateException(
          text(warehouse, reply.path("status").path("state"))
              + errorOf(warehouse, reply.path("status").path("error")));
    }
    if (reply.path("manifest").path("truncated").asBoolean()) {
      throw new IllegalStateException("the result is larger than the warehouse sends inline");
    }
    return new Result(columns(reply), rows(warehouse, reply.path("result")));
  }

  private static List<String> columns(JsonNode reply) {
    List<String> columns = new ArrayList<>();
    reply
        .path("manifest")
        .path("schema")
        .path("columns")
        .forEach(column -> columns.add(column.path("name").asText()));
    return columns;
  }

  /** The rows of all chunks: each names the path of the next. */
  private static List<List<String>> rows(Warehouse warehouse, JsonNode first)
      throws IOException, InterruptedException {
    List<List<String>> rows = new ArrayList<>();
    JsonNode chunk = first;
    while (true) {
      for (JsonNode array : chunk.path("data_array")) {
        List<String> row = new ArrayList<>();
        array.forEach(value -> row.add(value.isNull() ? null : value.asText()));
        rows.add(row);
      }
      if (!chunk.hasNonNull("next_chunk_internal_link")) {
        return rows;
      }
      chunk = send(warehouse, "GET", chunk.get("next_chunk_internal_link").asText(), "");
    }
  }

  /**
   * Sends a request, again if the warehouse puts it off: 429 and 503 say that it has not been
   * taken.
   */
  private static JsonNode send(Warehouse warehouse, String method, String path, String body)
      throws IOException, InterruptedException {
    // A path of another form could name another host, which would get the token.
    if (!path.startsWith("/api/")) {
      throw new IOException("not a path of the API: " + path.replace(warehouse.token(), "…"));
    }
    HttpRequest request =
        HttpRequest.newBuilder(warehouse.host().resolve(path))
            .timeout(Duration.ofSeconds(60))
            .header("Authorization", "Bearer " + warehouse.token())
            .header("Content-Type", "application/json")
            .method(
                method, body.isEmpty() ? BodyPublishers.noBody() : BodyPublishers.ofString(body))
            .build();
    long pause = warehouse.pause().toMillis();
    for (int tries = 1; ; tries++, pause *= 2) {
      HttpResponse<String> response = HTTP.send(request, BodyHandlers.ofString());
      int status = response.statusCode();
      if (status == 200) {
        return JSON.readTree(response.body());
      } else if ((status != 429 && status != 503) || tries == MAX_TRIES) {
        throw new IOException("HTTP " + status + errorOf(warehouse, errorIn(response.body())));
      }
      long asked = response.headers().firstValueAsLong("Retry-After").orElse(0) * 1_000;
      TimeUnit.MILLISECONDS.sleep(Math.min(Math.max(pause, asked), warehouse.timeout().toMillis()));
    }
  }

  /** What a refusal says of itself; a proxy on the way may answer with a page instead. */
  private static JsonNode errorIn(String body) {
    try {
      return JSON.readTree(body);
    } catch (IOException e) {
      return JSON.createObjectNode();
    }
  }

  private static String errorOf(Warehouse warehouse, JsonNode error) {
    return ", "
        + text(warehouse, error.path("error_code"))
        + ": "
        + text(warehouse, error.path("message"));
  }

  private static String text(Warehouse warehouse, JsonNode node) {
    return node.asText().replace(warehouse.token(), "…");
  }

  private static String typeOf(Object value) {
    if (value instanceof LocalDate) {
      return "DATE";
    } else if (value instanceof Integer) {
      return "INT";
    } else if (value instanceof Long) {
      return "BIGINT";
    } else if (value instanceof Boolean) {
      return "BOOLEAN";
    } else if (value instanceof BigDecimal decimal) {
      return "DECIMAL(%d,%d)"
          .formatted(Math.max(decimal.precision(), decimal.scale()), decimal.scale());
    }
    return "STRING";
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        DatabricksSql.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Map<String, String> environment = System.getenv();
          notebook.step("The statement and its parameters");
          notebook.text(REPORT.strip());
          if (environment
              .keySet()
              .containsAll(
                  Set.of("DATABRICKS_HOST", "DATABRICKS_WAREHOUSE_ID", "DATABRICKS_TOKEN"))) {
            String host = environment.get("DATABRICKS_HOST");
            Warehouse warehouse =
                new Warehouse(
                    URI.create(host.startsWith("http") ? host : "https://" + host),
                    environment.get("DATABRICKS_WAREHOUSE_ID"),
                    environment.get("DATABRICKS_TOKEN"),
                    Duration.ofSeconds(1),
                    Duration.ofMinutes(10));
            notebook.step("On " + warehouse);
            Result result =
                execute(
                    warehouse,
                    REPORT,
                    Map.of("orders", "samples.tpch.orders", "since", LocalDate.of(1995, 1, 1)));
            notebook.text("%s", result.columns());
            result.rows().forEach(row -> notebook.text("%s", row));
            return;
          }
          notebook.step("In this session: DATABRICKS_HOST, …_WAREHOUSE_ID or …_TOKEN is not set");
          notebook
              .sampleData(20_000)
              .orders()
              .selectExpr(
                  "customer_id AS o_custkey", "order_date AS o_orderdate", "amount AS o_totalprice")
              .write()
              .saveAsTable("orders");
          notebook.table(
              "customers by their share of the turnover",
              spark.sql(REPORT, Map.of("orders", "orders", "since", LocalDate.of(2025, 7, 1))));
        });
  }
}
