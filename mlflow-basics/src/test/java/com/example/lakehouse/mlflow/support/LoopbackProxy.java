package com.example.lakehouse.mlflow.support;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.regex.Pattern;

/**
 * A gateway on the loopback interface before a real MLflow server. It breaks the requests that it
 * is told to, and passes on the others.
 */
public final class LoopbackProxy implements AutoCloseable {
  private static final HttpClient CLIENT =
      HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

  private final HttpServer server;
  private final ExecutorService threads = Executors.newCachedThreadPool();
  private final String upstream;
  private final String prefix;
  private final List<Rule> rules = new ArrayList<>();
  private final List<String> requests = new CopyOnWriteArrayList<>();
  private final List<String> authorizations = new CopyOnWriteArrayList<>();

  /** What is done with a request in place of passing it on. */
  @FunctionalInterface
  public interface Fault {
    /**
     * Answers the request, or does not.
     *
     * @throws IOException to cut the connection
     */
    void handle(HttpExchange exchange) throws IOException;
  }

  private record Rule(Pattern request, Fault fault, boolean once) {}

  /** A gateway before {@code upstream}. */
  public LoopbackProxy(String upstream) {
    this(upstream, "");
  }

  /** A gateway that has {@code upstream} below the path {@code prefix}. */
  LoopbackProxy(String upstream, String prefix) {
    this.upstream = upstream;
    this.prefix = prefix;
    try {
      server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    server.setExecutor(threads);
    server.createContext("/", this::handle);
    server.start();
  }

  public String uri() {
    return "http://127.0.0.1:" + server.getAddress().getPort() + prefix;
  }

  /**
   * Breaks the next request that {@code pattern} is found in, once.
   *
   * @param pattern of the method and the decoded path, such as {@code PUT .*model.bin}
   */
  public LoopbackProxy next(String pattern, Fault fault) {
    return rule(pattern, fault, true);
  }

  /** Breaks each request that {@code pattern} is found in. */
  public LoopbackProxy each(String pattern, Fault fault) {
    return rule(pattern, fault, false);
  }

  private synchronized LoopbackProxy rule(String pattern, Fault fault, boolean once) {
    rules.add(new Rule(Pattern.compile(pattern), fault, once));
    return this;
  }

  private synchronized Fault fault(String request) {
    for (Iterator<Rule> all = rules.iterator(); all.hasNext(); ) {
      Rule rule = all.next();
      if (rule.request().matcher(request).find()) {
        if (rule.once()) {
          all.remove();
        }
        return rule.fault();
      }
    }
    return this::pass;
  }

  /** Methods and decoded paths, in order. */
  public List<String> requests() {
    return requests;
  }

  /** How many requests {@code pattern} is found in. */
  public long count(String pattern) {
    return requests.stream().filter(Pattern.compile(pattern).asPredicate()).count();
  }

  /** The {@code Authorization} header of each request; {@code none} for one without. */
  List<String> authorizations() {
    return authorizations;
  }

  private void handle(HttpExchange exchange) throws IOException {
    String request = exchange.getRequestMethod() + " " + exchange.getRequestURI().getPath();
    requests.add(request);
    String authorization = exchange.getRequestHeaders().getFirst("Authorization");
    authorizations.add(authorization == null ? "none" : authorization);
    if (!exchange.getRequestURI().getPath().startsWith(prefix + "/api/")) {
      answer(404, "not below " + prefix).handle(exchange);
      return;
    }
    fault(request).handle(exchange);
  }

  /** An answer of the gateway's own; what was sent is read first. */
  public static Fault answer(int status, String body) {
    return answer(status, body, Map.of());
  }

  public static Fault answer(int status, String body, Map<String, String> headers) {
    return exchange -> {
      exchange.getRequestBody().readAllBytes();
      headers.forEach(exchange.getResponseHeaders()::set);
      byte[] bytes = body.getBytes(StandardCharsets.UTF_8);
      exchange.sendResponseHeaders(status, bytes.length == 0 ? -1 : bytes.length);
      exchange.getResponseBody().write(bytes);
      exchange.close();
    };
  }

  /** The server gets the request, and the connection is cut before its answer. */
  public Fault loseAnswer() {
    return exchange -> {
      try (InputStream answer = forward(exchange, body(exchange)).body()) {
        answer.readAllBytes();
      }
      throw new IOException("cut before the answer");
    };
  }

  /** The connection is cut after so many bytes of what the client sends. */
  public static Fault cutRequest(int bytes) {
    return exchange -> {
      exchange.getRequestBody().readNBytes(bytes);
      throw new IOException("cut in the request");
    };
  }

  /** The connection is cut after so many bytes of the answer. */
  Fault cutAnswer(int bytes) {
    return exchange -> {
      beginAnswer(exchange, bytes);
      throw new IOException("cut in the answer");
    };
  }

  /** The connection stays, but no more comes after so many bytes of the answer. */
  Fault stallAnswer(int bytes) {
    return exchange -> {
      beginAnswer(exchange, bytes);
      hang();
    };
  }

  /** Passes the request on, and gives the client so many bytes of the answer. */
  private void beginAnswer(HttpExchange exchange, int bytes) throws IOException {
    HttpResponse<InputStream> response = forward(exchange, body(exchange));
    try (InputStream body = response.body()) {
      exchange.sendResponseHeaders(
          response.statusCode(), response.headers().firstValueAsLong("Content-Length").orElse(0));
      exchange.getResponseBody().write(body.readNBytes(bytes));
      exchange.getResponseBody().flush();
    }
  }

  /** The connection stays, but no answer comes. */
  static Fault stallRequest() {
    return exchange -> hang();
  }

  private static void hang() throws IOException {
    try {
      new CountDownLatch(1).await();
    } catch (InterruptedException e) {
      // The gateway is closed.
      throw new IOException(e);
    }
  }

  /** Changes the first byte of what the client sends. */
  Fault changeRequest() {
    return exchange -> {
      byte[] bytes = exchange.getRequestBody().readAllBytes();
      bytes[0] ^= 1;
      relay(exchange, forward(exchange, BodyPublishers.ofByteArray(bytes)));
    };
  }

  /** Passes a request on. */
  public void pass(HttpExchange exchange) throws IOException {
    relay(exchange, forward(exchange, body(exchange)));
  }

  private static BodyPublisher body(HttpExchange exchange) {
    String length = exchange.getRequestHeaders().getFirst("Content-Length");
    if (length == null || length.equals("0")) {
      return BodyPublishers.noBody();
    }
    return BodyPublishers.fromPublisher(
        BodyPublishers.ofInputStream(exchange::getRequestBody), Long.parseLong(length));
  }

  /** Sends a request on, with a body in place of its own; the answer is the caller's. */
  HttpResponse<InputStream> forward(HttpExchange exchange, BodyPublisher body) throws IOException {
    String pathAndQuery = exchange.getRequestURI().toString().substring(prefix.length());
    HttpRequest.Builder request =
        HttpRequest.newBuilder(URI.create(upstream + pathAndQuery))
            .method(exchange.getRequestMethod(), body);
    String type = exchange.getRequestHeaders().getFirst("Content-Type");
    if (type != null) {
      request.header("Content-Type", type);
    }
    try {
      return CLIENT.send(request.build(), BodyHandlers.ofInputStream());
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IOException(e);
    }
  }

  private static void relay(HttpExchange exchange, HttpResponse<InputStream> response)
      throws IOException {
    try (InputStream body = response.body()) {
      long length = response.headers().firstValueAsLong("Content-Length").orElse(-1);
      exchange.sendResponseHeaders(response.statusCode(), length == 0 ? -1 : Math.max(length, 0));
      body.transferTo(exchange.getResponseBody());
    }
    exchange.close();
  }

  @Override
  public void close() {
    server.stop(0);
    threads.shutdownNow();
  }
}
