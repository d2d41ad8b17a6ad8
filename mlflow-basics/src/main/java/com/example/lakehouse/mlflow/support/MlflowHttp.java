package com.example.lakehouse.mlflow.support;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.MissingNode;
import dev.failsafe.Failsafe;
import dev.failsafe.FailsafeException;
import dev.failsafe.RetryPolicy;
import dev.failsafe.Timeout;
import dev.failsafe.TimeoutExceededException;
import java.io.IOException;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodySubscriber;
import java.net.http.HttpResponse.BodySubscribers;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Map;
import java.util.function.Consumer;
import java.util.stream.Collectors;

/**
 * Requests to an MLflow server for {@link ModelRegistry} and {@link ArtifactStore}, with their
 * retries. It follows no redirect, so that a token stays with the host that it is for.
 */
final class MlflowHttp {
  /** With six doublings half a minute: a server that starts again takes ten seconds. */
  private static final Duration FIRST_DELAY = Duration.ofMillis(500);

  private static final int RETRIES = 6;
  private static final Duration LONGEST_DELAY = Duration.ofSeconds(60);
  private static final Duration PATIENCE = Duration.ofSeconds(60);

  /** A transfer that is slower than this has hung. */
  private static final long SLOWEST_BYTES_PER_SECOND = 256 * 1024;

  private static final int LONGEST_MESSAGE = 500;
  private static final ObjectMapper JSON = new ObjectMapper();

  /** HTTP/1.1, because MLflow's server warns of each offer to upgrade. */
  private static final HttpClient CLIENT =
      HttpClient.newBuilder()
          .version(HttpClient.Version.HTTP_1_1)
          .followRedirects(HttpClient.Redirect.NEVER)
          .connectTimeout(Duration.ofSeconds(20))
          .build();

  private final Credentials credentials;
  private final Duration patience;
  private final RetryPolicy<Object> retries;

  /** One try of a request, or of several that belong together. */
  @FunctionalInterface
  interface Attempt<T> {
    /**
     * Makes the try.
     *
     * @param before how many tries there were before; what they asked for may have been done, with
     *     the answer lost
     * @throws IOException if another try may help
     */
    T run(int before) throws IOException, InterruptedException;
  }

  /** An answer that may be another one a little later. */
  private static final class Unavailable extends IOException {
    private static final long serialVersionUID = 1L;

    private final transient MlflowException refusal;
    private final transient Duration retryAfter;

    Unavailable(MlflowException refusal, Duration retryAfter) {
      super(refusal);
      this.refusal = refusal;
      this.retryAfter = retryAfter;
    }
  }

  MlflowHttp(Credentials credentials) {
    this(credentials, FIRST_DELAY, PATIENCE);
  }

  /**
   * @param firstDelay before the second try; it doubles with each one
   * @param patience how long an answer may take, without the time for what is transferred
   */
  MlflowHttp(Credentials credentials, Duration firstDelay, Duration patience) {
    this.credentials = credentials;
    this.patience = patience;
    this.retries =
        RetryPolicy.builder()
            .handle(IOException.class, TimeoutExceededException.class)
            .withBackoff(firstDelay, firstDelay.multipliedBy(1L << RETRIES))
            .withDelayFnOn(
                context -> ((Unavailable) context.getLastException()).retryAfter, Unavailable.class)
            .withJitter(0.2)
            .withMaxRetries(RETRIES)
            .build();
  }

  Credentials credentials() {
    return credentials;
  }

  /** A request that may be repeated. */
  JsonNode get(String path, Map<String, ?> query) {
    return retry("GET " + path, 0, before -> getOnce(path, query));
  }

  JsonNode getOnce(String path, Map<String, ?> query) throws IOException, InterruptedException {
    String parameters =
        query.entrySet().stream()
            .map(e -> encode(e.getKey()) + "=" + encode(String.valueOf(e.getValue())))
            .collect(Collectors.joining("&"));
    HttpRequest.Builder request = request(path + (parameters.isEmpty() ? "" : "?" + parameters));
    return answer(request.GET());
  }

  JsonNode sendOnce(String method, String path, Object body)
      throws IOException, InterruptedException {
    HttpRequest.Builder request =
        request(path)
            .header("Content-Type", "application/json")
            .method(method, BodyPublishers.ofByteArray(JSON.writeValueAsBytes(body)));
    return answer(request);
  }

  void putOnce(String path, BodyPublisher body) throws IOException, InterruptedException {
    HttpRequest.Builder request =
        request(path).header("Content-Type", "application/octet-stream").PUT(body);
    exchange(request.build(), BodySubscribers.ofByteArray());
  }

  /**
   * Gives an answer's body to {@code sink}, piece by piece. The JDK has the body as an InputStream
   * too, but nothing interrupts a read of that in Java 17: a server that stops in mid-answer would
   * hold the caller for ever.
   *
   * @throws IOException if the body is cut
   */
  void downloadOnce(String path, Consumer<byte[]> sink) throws IOException, InterruptedException {
    BodySubscriber<Void> pieces =
        BodySubscribers.ofByteArrayConsumer(piece -> piece.ifPresent(sink));
    exchange(request(path).GET().build(), BodySubscribers.mapping(pieces, end -> new byte[0]));
  }

  /**
   * Repeats {@code attempt} with growing delays while the connection is lost, the server does not
   * answer in time, or it answers 429 or 5xx.
   *
   * @param what is asked, for a message
   * @param bytes that are sent or received, which an attempt is given time for
   */
  <T> T retry(String what, long bytes, Attempt<T> attempt) {
    Timeout<Object> timeout =
        Timeout.builder(patience.plusSeconds(bytes / SLOWEST_BYTES_PER_SECOND))
            .withInterrupt()
            .build();
    try {
      return Failsafe.with(retries, timeout).get(c -> attempt.run(c.getAttemptCount()));
    } catch (TimeoutExceededException e) {
      throw new MlflowException(lost(what, "no answer in " + timeout.getConfig().getTimeout()), e);
    } catch (FailsafeException e) {
      if (e.getCause() instanceof Unavailable unavailable) {
        throw unavailable.refusal;
      } else if (e.getCause() instanceof InterruptedException) {
        throw new MlflowException(lost(what, "interrupted"), e.getCause());
      }
      // A refused connection has no message.
      String why = e.getCause().getMessage();
      String name = e.getCause().getClass().getSimpleName();
      throw new MlflowException(lost(what, why == null ? name : why), e.getCause());
    }
  }

  private String lost(String what, String why) {
    return "%s at %s failed: %s".formatted(what, credentials.host(), credentials.redact(why));
  }

  /** Text for a URL: also {@code /}, so that it stays within its part of the path. */
  static String encode(String text) {
    return URLEncoder.encode(text, StandardCharsets.UTF_8).replace("+", "%20");
  }

  private HttpRequest.Builder request(String pathAndQuery) {
    HttpRequest.Builder request =
        HttpRequest.newBuilder(URI.create(credentials.host() + pathAndQuery));
    credentials.header().ifPresent(header -> request.header("Authorization", header));
    return request;
  }

  private JsonNode answer(HttpRequest.Builder request) throws IOException, InterruptedException {
    byte[] body = exchange(request.build(), BodySubscribers.ofByteArray());
    try {
      return JSON.readTree(body);
    } catch (JsonProcessingException e) {
      throw new MlflowException(
          "%s answers, but not as MLflow does: %s"
              .formatted(credentials.host(), shortened(new String(body, StandardCharsets.UTF_8))));
    }
  }

  /** Sends a request; an answer that is no success is an exception. */
  private byte[] exchange(HttpRequest request, BodySubscriber<byte[]> success)
      throws IOException, InterruptedException {
    HttpResponse<byte[]> response =
        CLIENT.send(
            request,
            answer -> isSuccess(answer.statusCode()) ? success : BodySubscribers.ofByteArray());
    int status = response.statusCode();
    if (isSuccess(status)) {
      return response.body();
    } else if (status < 400) {
      throw new MlflowException(
          status,
          "",
          "%s redirects; it is not followed, because the credentials are for this host. Set the"
                  .formatted(credentials.host())
              + " tracking URI to where it leads");
    }
    MlflowException refusal = refusal(status, new String(response.body(), StandardCharsets.UTF_8));
    if (status == 429 || (status >= 500 && status != 501)) {
      throw new Unavailable(refusal, retryAfter(response));
    }
    throw refusal;
  }

  private static boolean isSuccess(int status) {
    return status >= 200 && status < 300;
  }

  private MlflowException refusal(int status, String body) {
    JsonNode error;
    try {
      error = JSON.readTree(body);
    } catch (JsonProcessingException e) {
      // A gateway's page.
      error = MissingNode.getInstance();
    }
    return new MlflowException(
        status,
        error.path("error_code").asText(""),
        shortened(error.path("message").asText(error.path("detail").asText(body))));
  }

  private String shortened(String text) {
    String redacted = credentials.redact(text);
    return redacted.length() <= LONGEST_MESSAGE
        ? redacted
        : redacted.substring(0, LONGEST_MESSAGE) + "…";
  }

  /** Negative, for the delay that grows, if the server names none in seconds. */
  private static Duration retryAfter(HttpResponse<?> response) {
    return response
        .headers()
        .firstValue("Retry-After")
        .filter(value -> value.matches("\\d{1,4}"))
        .map(value -> Duration.ofSeconds(Long.parseLong(value)))
        .map(delay -> delay.compareTo(LONGEST_DELAY) > 0 ? LONGEST_DELAY : delay)
        .orElse(Duration.ofNanos(-1));
  }
}
