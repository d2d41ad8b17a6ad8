package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowable;
import static org.assertj.core.api.Assertions.tuple;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.sql.DatabricksSql.Result;
import com.example.lakehouse.sql.DatabricksSql.Warehouse;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.LocalDate;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CopyOnWriteArrayList;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** The warehouse is a server on this machine that answers as the API's description says. */
@SparkTest
class DatabricksSqlTest {
  private static final String TOKEN = "dapi0123456789secret";
  private static final String STATEMENTS = "/api/2.0/sql/statements";

  private static final String SUCCEEDED =
      """
      {"statement_id": "s-1", "status": {"state": "SUCCEEDED"},
       "manifest": {"format": "JSON_ARRAY", "total_row_count": 2, "total_chunk_count": 1,
                    "schema": {"column_count": 2, "columns": [
                      {"name": "class", "position": 0, "type_name": "STRING"},
                      {"name": "customers", "position": 1, "type_name": "LONG"}]}},
       "result": {"chunk_index": 0, "row_offset": 0, "row_count": 2,
                  "data_array": [["A", "12"], ["B", null]]}}
      """;

  private record Request(String method, String path, String authorization, String body) {}

  private record Reply(int status, String body, Map<String, String> headers) {
    Reply(int status, String body) {
      this(status, body, Map.of());
    }
  }

  private final List<Request> requests = new CopyOnWriteArrayList<>();
  private final Queue<Reply> replies = new ConcurrentLinkedQueue<>();
  private HttpServer server;

  @BeforeEach
  void start() throws IOException {
    server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
    server.createContext("/", this::answer);
    server.start();
  }

  @AfterEach
  void stop() {
    server.stop(0);
  }

  private void answer(HttpExchange exchange) throws IOException {
    try (exchange) {
      requests.add(
          new Request(
              exchange.getRequestMethod(),
              exchange.getRequestURI().toString(),
              exchange.getRequestHeaders().getFirst("Authorization"),
              new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8)));
      Reply reply = replies.size() > 1 ? replies.remove() : replies.element();
      reply.headers().forEach(exchange.getResponseHeaders()::set);
      byte[] body = reply.body().getBytes(StandardCharsets.UTF_8);
      exchange.sendResponseHeaders(reply.status(), body.length == 0 ? -1 : body.length);
      exchange.getResponseBody().write(body);
    }
  }

  /** The last reply is given again and again. */
  private void willReply(Reply... in) {
    replies.addAll(List.of(in));
  }

  private static Reply ok(String body) {
    return new Reply(200, body);
  }

  private static Reply state(String state) {
    return ok("{\"statement_id\": \"s-1\", \"status\": {\"state\": \"%s\"}}".formatted(state));
  }

  private Warehouse warehouse() {
    return new Warehouse(
        URI.create("http://127.0.0.1:" + server.getAddress().getPort()),
        "w-1",
        TOKEN,
        Duration.ofMillis(1),
        Duration.ofMinutes(1));
  }

  private Result execute() throws IOException, InterruptedException {
    return DatabricksSql.execute(warehouse(), "SELECT 1", Map.of());
  }

  /** An error, and that it and its causes say nothing of the token. */
  private Throwable failure() {
    Throwable failure = catchThrowable(this::execute);
    assertThat(failure).isNotNull();
    StringWriter trace = new StringWriter();
    failure.printStackTrace(new PrintWriter(trace));
    assertThat(trace.toString()).doesNotContain(TOKEN);
    return failure;
  }

  @Test
  void aStatementIsSentWithItsParametersAndItsRowsComeBack() throws Exception {
    willReply(ok(SUCCEEDED));
    String hostile = "x' OR '1'='1";

    Result result =
        DatabricksSql.execute(
            warehouse(),
            "SELECT :text, :since, :n, :money",
            Map.of(
                "text",
                hostile,
                "since",
                LocalDate.of(2025, 7, 1),
                "n",
                5L,
                "money",
                new BigDecimal("12.50")));

    assertThat(result.columns()).containsExactly("class", "customers");
    assertThat(result.rows()).hasSize(2);
    assertThat(result.rows().get(0)).containsExactly("A", "12");
    assertThat(result.rows().get(1)).containsExactly("B", null);
    assertThat(requests).hasSize(1);
    assertThat(requests.get(0).method()).isEqualTo("POST");
    assertThat(requests.get(0).path()).isEqualTo(STATEMENTS);
    assertThat(requests.get(0).authorization()).isEqualTo("Bearer " + TOKEN);
    JsonNode body = new ObjectMapper().readTree(requests.get(0).body());
    assertThat(body.get("warehouse_id").asText()).isEqualTo("w-1");
    assertThat(body.get("statement").asText()).isEqualTo("SELECT :text, :since, :n, :money");
    assertThat(body.get("on_wait_timeout").asText()).isEqualTo("CONTINUE");
    assertThat(body.get("parameters"))
        .extracting(
            p -> p.get("name").asText(), p -> p.get("value").asText(), p -> p.get("type").asText())
        .containsExactlyInAnyOrder(
            tuple("text", hostile, "STRING"),
            tuple("since", "2025-07-01", "DATE"),
            tuple("n", "5", "BIGINT"),
            tuple("money", "12.50", "DECIMAL(4,2)"));
  }

  @Test
  void aStatementThatIsNotDoneIsAskedAfterUntilItIs() throws Exception {
    willReply(state("PENDING"), state("RUNNING"), state("RUNNING"), ok(SUCCEEDED));

    assertThat(execute().rows()).hasSize(2);

    assertThat(requests.stream().map(r -> r.method() + " " + r.path()))
        .containsExactly(
            "POST " + STATEMENTS,
            "GET " + STATEMENTS + "/s-1",
            "GET " + STATEMENTS + "/s-1",
            "GET " + STATEMENTS + "/s-1");
  }

  @Test
  void aStatementThatTakesTooLongIsCancelled() {
    willReply(state("RUNNING"));
    Warehouse impatient =
        new Warehouse(warehouse().host(), "w-1", TOKEN, Duration.ofMillis(1), Duration.ofMillis(5));

    assertThatThrownBy(() -> DatabricksSql.execute(impatient, "SELECT 1", Map.of()))
        .isInstanceOf(IllegalStateException.class)
        .hasMessage("cancelled after PT0.005S");

    assertThat(requests.get(requests.size() - 1))
        .isEqualTo(new Request("POST", STATEMENTS + "/s-1/cancel", "Bearer " + TOKEN, ""));
  }

  @Test
  void theRowsOfAllChunksComeInOrder() throws Exception {
    String next = STATEMENTS + "/s-1/result/chunks/%d?row_offset=%d";
    willReply(
        ok(
            """
            {"statement_id": "s-1", "status": {"state": "SUCCEEDED"},
             "manifest": {"schema": {"columns": [{"name": "n"}]}, "total_chunk_count": 3},
             "result": {"chunk_index": 0, "data_array": [["1"], ["2"]], "next_chunk_index": 1,
                        "next_chunk_internal_link": "%s"}}
            """
                .formatted(next.formatted(1, 2))),
        ok(
            """
            {"chunk_index": 1, "data_array": [["3"]], "next_chunk_index": 2,
             "next_chunk_internal_link": "%s"}
            """
                .formatted(next.formatted(2, 3))),
        ok("{\"chunk_index\": 2, \"data_array\": [[\"4\"]]}"));

    assertThat(execute().rows())
        .containsExactly(List.of("1"), List.of("2"), List.of("3"), List.of("4"));

    assertThat(requests.stream().skip(1).map(Request::path))
        .containsExactly(next.formatted(1, 2), next.formatted(2, 3));
  }

  /** It would get the token. */
  @Test
  void aChunkOfAnotherHostIsNotAskedFor() {
    willReply(
        ok(
            """
            {"statement_id": "s-1", "status": {"state": "SUCCEEDED"},
             "result": {"data_array": [["1"]], "next_chunk_internal_link": "//elsewhere.example/api/"}}
            """));

    assertThat(failure()).isInstanceOf(IOException.class).hasMessageContaining("elsewhere.example");
    assertThat(requests).hasSize(1);
  }

  @Test
  void aStatementThatFailsSaysWhy() {
    willReply(
        ok(
            """
            {"statement_id": "s-1", "status": {"state": "FAILED", "error": {
              "error_code": "BAD_REQUEST", "message": "[DIVIDE_BY_ZERO] Division by zero."}}}
            """));

    assertThat(failure())
        .isInstanceOf(IllegalStateException.class)
        .hasMessage("FAILED, BAD_REQUEST: [DIVIDE_BY_ZERO] Division by zero.");
  }

  @Test
  void aResultThatIsCutOffIsAnError() {
    willReply(
        ok(
            """
            {"statement_id": "s-1", "status": {"state": "SUCCEEDED"},
             "manifest": {"truncated": true}, "result": {"data_array": [["1"]]}}
            """));

    assertThat(failure()).hasMessageContaining("larger than the warehouse sends inline");
  }

  @Test
  void aRefusalIsNotTriedAgainAndDoesNotRepeatTheToken() {
    for (int status : new int[] {401, 403}) {
      replies.clear();
      requests.clear();
      willReply(
          new Reply(
              status,
              "{\"error_code\": \"PERMISSION_DENIED\", \"message\": \"not with %s\"}"
                  .formatted(TOKEN)));

      assertThat(failure())
          .isInstanceOf(IOException.class)
          .hasMessage("HTTP " + status + ", PERMISSION_DENIED: not with …");
      assertThat(requests).hasSize(1);
    }
  }

  @Test
  void aRequestThatIsPutOffIsTriedAgain() throws Exception {
    willReply(
        new Reply(429, "{}", Map.of("Retry-After", "0")),
        new Reply(503, "<html>busy</html>"),
        ok(SUCCEEDED));

    assertThat(execute().rows()).hasSize(2);

    assertThat(requests).hasSize(3);
    assertThat(requests.stream().map(Request::body).distinct()).hasSize(1);
  }

  @Test
  void butNotForEver() {
    willReply(new Reply(503, "<html>busy</html>"));

    assertThat(failure()).isInstanceOf(IOException.class).hasMessageStartingWith("HTTP 503");
    assertThat(requests).hasSize(5);
  }

  @Test
  void aServerThatIsAwayIsAnErrorWithoutTheToken() {
    server.stop(0);

    assertThat(failure()).isInstanceOf(IOException.class);
    assertThat(requests).isEmpty();
  }

  @Test
  void theTokenGoesToHttpsOnlyAndIsInNoText() {
    assertThat(warehouse().toString()).contains("w-1").doesNotContain(TOKEN);
    assertThatThrownBy(
            () ->
                new Warehouse(
                    URI.create("http://example.com"), "w", TOKEN, Duration.ZERO, Duration.ZERO))
        .hasMessageContaining("https")
        .hasMessageNotContaining(TOKEN);
    // As when it was read from a file, with its line's end: an HTTP client would quote it.
    assertThatThrownBy(
            () ->
                new Warehouse(warehouse().host(), "w", TOKEN + "\n", Duration.ZERO, Duration.ZERO))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageNotContaining(TOKEN);
  }

  @Test
  void theReportRunsHereWithTheSameParameters(SparkSession spark, Sandbox sandbox) {
    spark.sql(
        """
        CREATE TABLE orders AS
        SELECT * FROM VALUES
          (1L, DATE'2025-01-01', 900.00BD), (1L, DATE'2025-07-01', 70.00BD),
          (2L, DATE'2025-07-02', 10.00BD), (3L, DATE'2025-07-03', 14.00BD), (4L, DATE'2025-08-01', 6.00BD)
          AS orders (o_custkey, o_orderdate, o_totalprice)
        """);

    // 70 of 100, 84 and 94, 100; the first order is too early.
    assertThat(
            spark
                .sql(
                    DatabricksSql.REPORT,
                    Map.of("orders", "orders", "since", LocalDate.of(2025, 7, 1)))
                .selectExpr("class", "customers", "CAST(turnover AS INT) AS turnover"))
        .hasRowsInOrder(row("A", 1L, 70), row("B", 2L, 24), row("C", 1L, 6));
  }
}
