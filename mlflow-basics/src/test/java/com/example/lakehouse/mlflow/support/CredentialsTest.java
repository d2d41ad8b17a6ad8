package com.example.lakehouse.mlflow.support;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class CredentialsTest {
  private static final String HOST = "https://mlflow.example.com/team";

  @Test
  void withoutATrackingUriThereAreNone() {
    assertThat(Credentials.from(Map.of("MLFLOW_TRACKING_TOKEN", "s3cret"))).isEmpty();
  }

  @Test
  void aTokenIsABearerToken() {
    Credentials credentials =
        Credentials.from(
                Map.of("MLFLOW_TRACKING_URI", HOST + "/", "MLFLOW_TRACKING_TOKEN", "s3cret\n"))
            .orElseThrow();

    assertThat(credentials.host()).hasToString(HOST);
    assertThat(credentials.header()).as("without the line's end").hasValue("Bearer s3cret");
  }

  @Test
  void userAndPasswordGoBeforeAToken() {
    Credentials credentials =
        Credentials.from(
                Map.of(
                    "MLFLOW_TRACKING_URI", HOST,
                    "MLFLOW_TRACKING_TOKEN", "t0ken",
                    "MLFLOW_TRACKING_USERNAME", "ann",
                    "MLFLOW_TRACKING_PASSWORD", "s3cret"))
            .orElseThrow();

    assertThat(credentials.header()).as("ann:s3cret").hasValue("Basic YW5uOnMzY3JldA==");
  }

  @Test
  void itsTextShowsNoSecret() {
    assertThat(Credentials.of(HOST)).hasToString(HOST);
    assertThat(Credentials.token(HOST, "s3cret")).hasToString(HOST + " with a token");
    assertThat(Credentials.login(HOST, "ann", "s3cret")).hasToString(HOST + " as ann");
  }

  @Test
  void whatAServerRepeatsOfThemIsTakenOut() {
    assertThat(Credentials.login(HOST, "ann", "s3cret").redact("Basic YW5uOnMzY3JldA== s3cret"))
        .isEqualTo("Basic *** ***");
    assertThat(Credentials.token(HOST, "t0ken").redact("Bearer t0ken.")).isEqualTo("Bearer ***.");
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "databricks",
        "sqlite:///s3cret.db",
        "file:/s3cret",
        "//s3cret",
        "http:s3cret",
        "https://ann:s3cret@mlflow.example.com",
        "https://mlflow.example.com?token=s3cret",
        "http://s3cret host"
      })
  void anAddressThatIsNoneOrHoldsASecretIsNotRepeated(String uri) {
    assertThatThrownBy(() -> Credentials.of(uri))
        .isInstanceOf(MlflowException.class)
        .hasMessageContaining("tracking URI must")
        .hasMessageNotContaining("s3cret")
        .hasNoCause();
  }

  @ParameterizedTest
  @ValueSource(strings = {"s3cret\r\nHost: other", "s3cret\u20ac", "s3cret "})
  void aTokenThatIsNoHeaderIsNotRepeated(String token) {
    assertThatThrownBy(() -> Credentials.token(HOST, token))
        .hasMessage("the token for the MLflow server has characters that no header can have")
        .hasNoCause();
  }
}
