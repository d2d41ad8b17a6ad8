package com.example.lakehouse.mlflow.support;

import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.stream.Stream;
import org.mlflow.tracking.MlflowClient;
import org.mlflow.tracking.creds.BasicMlflowHostCreds;

/**
 * Where an MLflow server is, and how to log in there. Only {@link #client} and the classes of this
 * package see the secret; {@link #toString} shows none.
 */
public final class Credentials {
  private final URI host;
  private final String user;
  private final String password;
  private final String token;

  private Credentials(String host, String user, String password, String token) {
    this.host = checked(host);
    this.user = user;
    this.password = password;
    this.token = headerValue(token);
  }

  /** A server that asks for no login. */
  public static Credentials of(String host) {
    return new Credentials(host, null, null, null);
  }

  /** A server, or a gateway before it, that takes a bearer token. */
  public static Credentials token(String host, String token) {
    return new Credentials(host, null, null, token);
  }

  /** A server with {@code --app-name basic-auth}. */
  public static Credentials login(String host, String user, String password) {
    return new Credentials(host, user, password, null);
  }

  /**
   * Those of {@code MLFLOW_TRACKING_URI}, if it is set, with {@code MLFLOW_TRACKING_USERNAME} and
   * {@code MLFLOW_TRACKING_PASSWORD}, or with {@code MLFLOW_TRACKING_TOKEN}.
   */
  public static Optional<Credentials> fromEnvironment() {
    return from(System.getenv());
  }

  /** As in MLflow's Python client, user and password go before a token. */
  static Optional<Credentials> from(Map<String, String> environment) {
    String host = environment.getOrDefault("MLFLOW_TRACKING_URI", "").strip();
    String user = environment.getOrDefault("MLFLOW_TRACKING_USERNAME", "").strip();
    String password = environment.getOrDefault("MLFLOW_TRACKING_PASSWORD", "").strip();
    String token = environment.getOrDefault("MLFLOW_TRACKING_TOKEN", "").strip();
    if (host.isEmpty()) {
      return Optional.empty();
    } else if (!user.isEmpty() && !password.isEmpty()) {
      return Optional.of(login(host, user, password));
    }
    return Optional.of(token.isEmpty() ? of(host) : token(host, token));
  }

  /** The server's address, with a path if a gateway gives it one, without a slash at the end. */
  public URI host() {
    return host;
  }

  /** MLflow's own client for this server, to be closed by the caller. */
  public MlflowClient client() {
    return new MlflowClient(
        new BasicMlflowHostCreds(host.toString(), user, password, token, false));
  }

  /** The {@code Authorization} header. */
  Optional<String> header() {
    if (user != null) {
      return Optional.of("Basic " + base64());
    }
    return Optional.ofNullable(token).map(secret -> "Bearer " + secret);
  }

  /** {@code text} without the secrets, should a server have sent them back in an error. */
  String redact(String text) {
    List<String> secrets =
        Stream.of(token, password, user == null ? null : base64())
            .filter(secret -> secret != null && !secret.isEmpty())
            .toList();
    String redacted = text;
    for (String secret : secrets) {
      redacted = redacted.replace(secret, "***");
    }
    return redacted;
  }

  private String base64() {
    byte[] login = (user + ":" + password).getBytes(StandardCharsets.UTF_8);
    return Base64.getEncoder().encodeToString(login);
  }

  @Override
  public String toString() {
    String login = user != null ? " as " + user : token != null ? " with a token" : "";
    return host + login;
  }

  /** Its messages do not repeat the address, which may hold a password. */
  private static URI checked(String host) {
    URI uri;
    try {
      uri = URI.create(host.strip().replaceAll("/+$", ""));
    } catch (IllegalArgumentException e) {
      throw new MlflowException("the tracking URI must be an address, http(s)://host:port");
    }
    boolean http = "http".equalsIgnoreCase(uri.getScheme());
    if (!(http || "https".equalsIgnoreCase(uri.getScheme())) || uri.getHost() == null) {
      throw new MlflowException(
          "the tracking URI must be http(s)://host:port, the address of an MLflow server");
    } else if (uri.getRawUserInfo() != null || uri.getRawQuery() != null) {
      throw new MlflowException(
          "the tracking URI must hold no secret: set MLFLOW_TRACKING_USERNAME and"
              + " MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN");
    }
    return uri;
  }

  /** The JDK's HTTP client would put a header that it refuses into its message. */
  private static String headerValue(String token) {
    if (token != null && !token.chars().allMatch(c -> c > ' ' && c < 0x7f)) {
      throw new MlflowException(
          "the token for the MLflow server has characters that no header can have");
    }
    return token;
  }
}
