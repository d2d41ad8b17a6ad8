package com.example.lakehouse.mlflow.support;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.mlflow.MlflowTest;
import com.example.lakehouse.mlflow.support.ModelRegistry.ModelVersion;
import com.example.lakehouse.mlflow.support.ModelRegistry.RegisteredModel;
import java.net.http.HttpRequest.BodyPublishers;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.mlflow.tracking.MlflowClient;

@MlflowTest
class ModelRegistryTest {
  private static MlflowHttp impatient(Credentials credentials) {
    return new MlflowHttp(credentials, Duration.ofMillis(1), Duration.ofSeconds(60));
  }

  /** The server is shared, so each test has names of its own. */
  private final String name = "model-" + UUID.randomUUID();

  private ModelRegistry registry;
  private LoopbackProxy proxy;
  private ModelRegistry broken;
  private String run;

  @BeforeEach
  void open(MlflowServer server) {
    registry = server.registry();
    try (MlflowClient client = Credentials.of(server.uri()).client()) {
      run = client.createRun().getRunId();
    }
    proxy = new LoopbackProxy(server.uri());
    broken = new ModelRegistry(impatient(Credentials.of(proxy.uri())));
  }

  @AfterEach
  void closeProxy() {
    proxy.close();
  }

  private ModelVersion newVersion() {
    return registry.createVersion(name, "runs:/" + run + "/model", run, "", Map.of());
  }

  private static void assertRefused(String code, int status, ThrowingCallable call) {
    assertThatThrownBy(call)
        .isInstanceOfSatisfying(
            MlflowException.class,
            e -> {
              assertThat(e.errorCode()).isEqualTo(code);
              assertThat(e.status()).isEqualTo(status);
            });
  }

  @Test
  void aModelHasItsDescriptionAndTags() {
    registry.createModel(name, "what people buy", Map.of("team", "shop"));

    RegisteredModel model = registry.model(name);
    assertThat(model.name()).isEqualTo(name);
    assertThat(model.description()).isEqualTo("what people buy");
    assertThat(model.tags()).isEqualTo(Map.of("team", "shop"));
    assertThat(model.aliases()).isEmpty();
  }

  @Test
  void aSecondModelOfTheNameIsRefusedWithTheServersWords() {
    registry.createModel(name, "", Map.of());

    assertThatThrownBy(() -> registry.createModel(name, "", Map.of()))
        .hasMessageStartingWith("RESOURCE_ALREADY_EXISTS (HTTP 400): ")
        .hasMessageContaining(name);
    assertThat(registry.createModelIfAbsent(name)).isEqualTo(registry.model(name));
  }

  @Test
  void aMissingModelOrVersionIsNamed() {
    assertRefused("RESOURCE_DOES_NOT_EXIST", 404, () -> registry.model(name));
    registry.createModel(name, "", Map.of());
    assertRefused("RESOURCE_DOES_NOT_EXIST", 404, () -> registry.version(name, 1));
  }

  @Test
  void aVersionHasItsSourceRunDescriptionAndTags() {
    registry.createModel(name, "", Map.of());

    ModelVersion made =
        registry.createVersion(
            name, "runs:/" + run + "/model", run, "trained on May", Map.of("rmse", "0.8"));

    assertThat(made.version()).isEqualTo(1);
    assertThat(made.uri()).isEqualTo("models:/" + name + "/1");
    assertThat(made.source()).isEqualTo("runs:/" + run + "/model");
    assertThat(made.runId()).isEqualTo(run);
    assertThat(made.description()).isEqualTo("trained on May");
    assertThat(made.tags()).isEqualTo(Map.of("rmse", "0.8"));
    assertThat(made.status()).isEqualTo("READY");
    assertThat(registry.version(name, 1)).isEqualTo(made);
  }

  @Test
  void aVersionWithoutAModelIsRefused() {
    assertRefused("RESOURCE_DOES_NOT_EXIST", 404, this::newVersion);
  }

  @Test
  void aVersionWhoseFilesAreOfAnotherRunIsRefused() {
    registry.createModel(name, "", Map.of());

    assertRefused(
        "INVALID_PARAMETER_VALUE",
        400,
        () -> registry.createVersion(name, "runs:/other/model", run, "", Map.of()));
    assertThat(registry.latest(name)).isEmpty();
  }

  @Test
  void theLatestVersionHasTheHighestNumber() {
    registry.createModel(name, "", Map.of());
    IntStream.range(0, 11).forEach(i -> newVersion());

    assertThat(registry.latest(name))
        .as("10 and 11 after 9")
        .map(ModelVersion::version)
        .hasValue(11);
    registry.deleteVersion(name, 11);
    assertThat(registry.latest(name)).map(ModelVersion::version).hasValue(10);
    assertThat(registry.versions(name)).hasSize(10);
    assertThat(newVersion().version()).as("is 11 given away again").isEqualTo(12);
  }

  @Test
  void anAliasStandsForOneVersionAndMoves() {
    registry.createModel(name, "", Map.of());
    newVersion();
    newVersion();
    assertThat(registry.byAlias(name, "champion")).isEmpty();

    registry.setAlias(name, "champion", 1);
    registry.setAlias(name, "challenger", 2);
    registry.setAlias(name, "champion", 2);

    assertThat(registry.byAlias(name, "champion")).map(ModelVersion::version).hasValue(2);
    assertThat(registry.model(name).aliases()).isEqualTo(Map.of("champion", 2, "challenger", 2));
  }

  @Test
  void aVersionIsTheSameHoweverItIsFound() {
    registry.createModel(name, "", Map.of());
    newVersion();
    registry.setAlias(name, "champion", 1);

    assertThat(registry.versions(name)).containsExactly(registry.version(name, 1));
    assertThat(registry.latest(name)).hasValue(registry.version(name, 1));
    assertThat(registry.byAlias(name, "champion")).hasValue(registry.version(name, 1));
  }

  @Test
  void aDeletedAliasLeavesItsVersion() {
    registry.createModel(name, "", Map.of());
    newVersion();
    registry.setAlias(name, "champion", 1);

    registry.deleteAlias(name, "champion");

    assertThat(registry.byAlias(name, "champion")).isEmpty();
    assertThat(registry.versions(name)).hasSize(1);
  }

  @Test
  void aDeletedVersionTakesItsAliases() {
    registry.createModel(name, "", Map.of());
    newVersion();
    registry.setAlias(name, "champion", 1);

    registry.deleteVersion(name, 1);

    assertThat(registry.byAlias(name, "champion")).isEmpty();
    assertRefused("RESOURCE_DOES_NOT_EXIST", 404, () -> registry.deleteVersion(name, 1));
  }

  /** Of eight inserts of one row MLflow's store refuses up to seven. */
  @Test
  void aNewAliasOrTagThatManySetAtOnceIsSetForEach() {
    registry.createModel(name, "", Map.of());
    newVersion();

    IntStream.range(0, 10)
        .forEach(
            round ->
                IntStream.range(0, 8)
                    .mapToObj(
                        i ->
                            CompletableFuture.runAsync(
                                () -> {
                                  registry.setAlias(name, "alias-" + round, 1);
                                  registry.setTag(name, "tag-" + round, "same");
                                  registry.setVersionTag(name, 1, "tag-" + round, "same");
                                },
                                task -> new Thread(task).start()))
                    .toList()
                    .forEach(CompletableFuture::join));

    assertThat(registry.model(name).aliases()).hasSize(10).containsValue(1);
    assertThat(registry.model(name).tags()).hasSize(10).containsEntry("tag-9", "same");
    assertThat(registry.version(name, 1).tags()).hasSize(10).containsEntry("tag-9", "same");
  }

  @Test
  void whatTheDatabaseRefusesTwiceIsAnError() {
    proxy.each(
        "registered-models/set-tag",
        LoopbackProxy.answer(400, "{\"error_code\": \"BAD_REQUEST\", \"message\": \"no\"}"));

    assertRefused("BAD_REQUEST", 400, () -> broken.setTag(name, "key", "value"));
    assertThat(proxy.requests()).hasSize(2);
  }

  @Test
  void anAliasOfAMissingModelOrToAMissingVersionIsAnError() {
    assertRefused("RESOURCE_DOES_NOT_EXIST", 404, () -> registry.byAlias(name, "champion"));
    registry.createModel(name, "", Map.of());
    assertRefused("RESOURCE_DOES_NOT_EXIST", 404, () -> registry.setAlias(name, "champion", 7));
    assertThat(registry.byAlias(name, "champion")).isEmpty();
  }

  @Test
  void tagsAreSetChangedAndDeleted() {
    registry.createModel(name, "", Map.of("kept", "1"));
    newVersion();

    registry.setTag(name, "stage", "test");
    registry.setTag(name, "stage", "live");
    registry.setVersionTag(name, 1, "rmse", "0.8");
    registry.setVersionTag(name, 1, "data", "May");
    registry.deleteTag(name, "kept");
    registry.deleteVersionTag(name, 1, "rmse");

    assertThat(registry.model(name).tags()).isEqualTo(Map.of("stage", "live"));
    assertThat(registry.version(name, 1).tags()).isEqualTo(Map.of("data", "May"));
  }

  @Test
  void aSearchReadsAllPages() {
    List<String> names =
        IntStream.range(0, 105).mapToObj(i -> "%s-%03d".formatted(name, i)).toList();
    names.forEach(each -> broken.createModel(each, "", Map.of()));

    assertThat(broken.searchModels("name LIKE '%s-%%'".formatted(name)))
        .extracting(RegisteredModel::name)
        .isEqualTo(names);
    assertThat(proxy.count("GET .*/registered-models/search")).as("pages of 100").isEqualTo(2);
  }

  @Test
  void aSearchFiltersByTagsAndRuns() {
    registry.createModel(name, "", Map.of("team", name));
    newVersion();
    newVersion();
    registry.setVersionTag(name, 2, "data", name);

    assertThat(registry.searchModels("tags.team = '%s'".formatted(name)))
        .containsExactly(registry.model(name));
    assertThat(registry.searchVersions("tags.data = '%s'".formatted(name)))
        .containsExactly(registry.version(name, 2));
    assertThat(registry.searchVersions("run_id = '%s'".formatted(run)))
        .extracting(ModelVersion::version)
        .containsExactly(2, 1);
  }

  @Test
  void aFilterThatMlflowDoesNotKnowIsRefusedWithItsWords() {
    assertThatThrownBy(() -> registry.searchModels("colour = 'red'"))
        .hasMessageStartingWith("INVALID_PARAMETER_VALUE (HTTP 400): ")
        .hasMessageContaining("colour");
  }

  @Test
  void aDeletedModelIsGoneWithItsVersions() {
    registry.createModel(name, "", Map.of());
    newVersion();

    registry.deleteModel(name);

    assertRefused("RESOURCE_DOES_NOT_EXIST", 404, () -> registry.model(name));
    assertThat(registry.versions(name)).isEmpty();
    assertRefused("RESOURCE_DOES_NOT_EXIST", 404, () -> registry.deleteModel(name));
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        " of the shop",
        " für Käufe 模型",
        " 100% a%20b",
        " O'Brien",
        " \"a\"",
        "?&#+;=",
        " a\\b\\"
      })
  void aNameCanHaveAnyCharacters(String end) {
    String odd = name + end;
    registry.createModel(odd, "", Map.of(odd.replaceAll("[^\\w ]", ""), end));
    registry.createVersion(odd, "runs:/" + run + "/model", run, end, Map.of());
    registry.setAlias(odd, "champion", 1);

    assertThat(registry.model(odd).name()).isEqualTo(odd);
    assertThat(registry.byAlias(odd, "champion")).map(ModelVersion::description).hasValue(end);
    assertThat(registry.latest(odd)).map(ModelVersion::name).hasValue(odd);
    assertThat(registry.versions(odd)).hasSize(1);
  }

  @Test
  void aNameWithASlashIsRefusedByMlflow() {
    assertThatThrownBy(() -> registry.createModel(name + "/x", "", Map.of()))
        .hasMessageStartingWith("INVALID_PARAMETER_VALUE (HTTP 400): ")
        .hasMessageContaining("cannot contain '/' or ':'");
  }

  @Test
  void aNameWithBothKindsOfQuotesCannotBeSearchedFor() {
    assertThatThrownBy(() -> registry.versions("a'b\"c"))
        .isInstanceOf(MlflowException.class)
        .hasMessageContaining("both kinds of quotes");
  }

  @Test
  void aServerThatIsAwayForAMomentIsAskedAgain() {
    proxy
        .next("registered-models/create", LoopbackProxy.answer(503, "starting"))
        .next("registered-models/create", LoopbackProxy.answer(429, "slowly"))
        .next("registered-models/create", LoopbackProxy.cutRequest(1));

    broken.createModel(name, "", Map.of());

    assertThat(registry.model(name).name()).isEqualTo(name);
    assertThat(proxy.count("registered-models/create")).isEqualTo(4);
  }

  @Test
  @Timeout(30)
  void theServersRetryAfterGoesBeforeTheDelay() {
    ModelRegistry patient =
        new ModelRegistry(
            new MlflowHttp(
                Credentials.of(proxy.uri()), Duration.ofHours(1), Duration.ofSeconds(60)));
    proxy.next("search", LoopbackProxy.answer(429, "", Map.of("Retry-After", "0")));

    assertThat(patient.searchModels("name = '%s'".formatted(name))).isEmpty();
    assertThat(proxy.count("search")).isEqualTo(2);
  }

  @Test
  void aServerThatStaysAwayIsAnErrorAfterSevenTries() {
    String answer = "{\"error_code\": \"TEMPORARILY_UNAVAILABLE\", \"message\": \"no database\"}";
    proxy.each("registered-models/get", LoopbackProxy.answer(503, answer));

    assertThatThrownBy(() -> broken.model(name))
        .isInstanceOf(MlflowException.class)
        .hasMessage("TEMPORARILY_UNAVAILABLE (HTTP 503): no database");
    assertThat(proxy.requests()).hasSize(7);
  }

  @Test
  void noServerIsAnErrorThatNamesItsAddress() {
    proxy.close();

    assertThatThrownBy(() -> broken.model(name))
        .isInstanceOf(MlflowException.class)
        .hasMessageEndingWith("at " + proxy.uri() + " failed: ConnectException")
        .satisfies(e -> assertThat(((MlflowException) e).status()).isZero());
  }

  @Test
  void whatTheServerRefusesIsNotAskedAgain() {
    assertRefused("RESOURCE_DOES_NOT_EXIST", 404, () -> broken.model(name));
    assertThat(proxy.requests()).hasSize(1);
  }

  @Test
  void aVersionWhoseAnswerWasLostIsMadeOnce() {
    registry.createModel(name, "", Map.of());
    proxy.next("model-versions/create", proxy.loseAnswer());

    ModelVersion made =
        broken.createVersion(name, "runs:/" + run + "/model", run, "", Map.of("rmse", "0.8"));

    assertThat(proxy.count("model-versions/create")).as("it was found").isEqualTo(1);
    assertThat(registry.versions(name)).containsExactly(made);
    assertThat(made.tags()).isEqualTo(Map.of("rmse", "0.8"));
  }

  @Test
  void aVersionThatNeverReachedTheServerIsMadeAtTheSecondTry() {
    registry.createModel(name, "", Map.of());
    proxy.next("model-versions/create", LoopbackProxy.answer(502, "no server"));

    ModelVersion made = broken.createVersion(name, "runs:/" + run + "/model", run, "", Map.of());

    assertThat(registry.versions(name)).containsExactly(made);
  }

  /** A gateway gives up a request that the server carries out later, when it comes again. */
  @Test
  void aVersionThatWasMadeLateIsNotThereTwice() {
    registry.createModel(name, "", Map.of());
    AtomicReference<byte[]> late = new AtomicReference<>();
    proxy
        .next(
            "model-versions/create",
            exchange -> {
              late.set(exchange.getRequestBody().readAllBytes());
              LoopbackProxy.answer(504, "gave up").handle(exchange);
            })
        .next(
            "model-versions/create",
            exchange -> {
              proxy.forward(exchange, BodyPublishers.ofByteArray(late.get())).body().close();
              proxy.pass(exchange);
            });

    ModelVersion made = broken.createVersion(name, "runs:/" + run + "/model", run, "", Map.of());

    assertThat(made.version()).isEqualTo(1);
    assertThat(registry.versions(name)).containsExactly(made);
    assertThat(newVersion().version()).as("2 was made and deleted").isEqualTo(3);
  }

  @Test
  void twoVersionsThatAreAlikeAreTwo() {
    registry.createModel(name, "", Map.of());
    newVersion();
    proxy.next("model-versions/create", LoopbackProxy.answer(503, ""));

    ModelVersion second = broken.createVersion(name, "runs:/" + run + "/model", run, "", Map.of());

    assertThat(second.version()).as("not taken for the first").isEqualTo(2);
  }

  @Test
  void aModelWhoseAnswerWasLostIsNoError() {
    proxy.next("registered-models/create", proxy.loseAnswer());

    RegisteredModel made = broken.createModel(name, "mine", Map.of("team", "shop"));

    assertThat(proxy.count("registered-models/create")).isEqualTo(2);
    assertThat(made).isEqualTo(registry.model(name));
  }

  @Test
  void aModelThatAnotherMadeMeanwhileIsAnError() {
    registry.createModel(name, "theirs", Map.of());
    proxy.next("registered-models/create", LoopbackProxy.answer(503, ""));

    assertRefused("RESOURCE_ALREADY_EXISTS", 400, () -> broken.createModel(name, "mine", Map.of()));
    assertThat(registry.model(name).description()).isEqualTo("theirs");
  }

  @Test
  void aDeletionWhoseAnswerWasLostIsNoError() {
    registry.createModel(name, "", Map.of());
    newVersion();
    proxy
        .next("model-versions/delete", proxy.loseAnswer())
        .next("registered-models/delete", proxy.loseAnswer());

    broken.deleteVersion(name, 1);
    assertThat(registry.versions(name)).isEmpty();
    broken.deleteModel(name);
    assertRefused("RESOURCE_DOES_NOT_EXIST", 404, () -> registry.model(name));
  }

  @Test
  void eachRequestHasTheTokenAlsoBelowAPath(MlflowServer server) {
    try (LoopbackProxy gateway = new LoopbackProxy(server.uri(), "/team/mlflow")) {
      ModelRegistry behind = new ModelRegistry(Credentials.token(gateway.uri() + "/", "s3cret"));

      behind.createModel(name, "", Map.of());
      behind.searchModels("name = '%s'".formatted(name));
      behind.deleteModel(name);

      assertThat(gateway.authorizations()).hasSize(3).containsOnly("Bearer s3cret");
    }
  }

  @Test
  void mlflowsOwnClientLogsInTheSameWay(MlflowServer server) {
    try (LoopbackProxy gateway = new LoopbackProxy(server.uri(), "/team");
        MlflowClient client = Credentials.login(gateway.uri(), "ann", "s3cret").client()) {
      assertThat(client.getRun(run).getInfo().getRunId()).isEqualTo(run);
      assertThat(gateway.authorizations()).containsExactly("Basic YW5uOnMzY3JldA==");
    }
  }

  @Test
  void aSecretThatTheServerRepeatsIsInNoMessage() {
    String echo = "{\"error_code\": \"PERMISSION_DENIED\", \"message\": \"%s is not known\"}";
    proxy
        .next("get$", LoopbackProxy.answer(403, echo.formatted("Bearer s3cret")))
        .next("get$", LoopbackProxy.answer(403, "<html>Bearer s3cret</html>"))
        .next("get$", LoopbackProxy.answer(200, "Hello, Bearer s3cret"));
    ModelRegistry withToken =
        new ModelRegistry(impatient(Credentials.token(proxy.uri(), "s3cret")));

    assertThat(Stream.of(1, 2, 3))
        .allSatisfy(
            time ->
                assertThatThrownBy(() -> withToken.model(name))
                    .isInstanceOf(MlflowException.class)
                    .hasMessageContaining("Bearer ***")
                    .hasMessageNotContaining("s3cret")
                    .hasNoCause());
    assertThat(proxy.authorizations()).hasSize(3).containsOnly("Bearer s3cret");
  }

  @Test
  void aTokenDoesNotFollowARedirect(MlflowServer server) {
    try (LoopbackProxy other = new LoopbackProxy(server.uri())) {
      proxy.next(
          "get$",
          LoopbackProxy.answer(
              307, "", Map.of("Location", other.uri() + "/api/2.0/mlflow/registered-models/get")));
      ModelRegistry withToken =
          new ModelRegistry(impatient(Credentials.token(proxy.uri(), "s3cret")));

      assertThatThrownBy(() -> withToken.model(name))
          .isInstanceOf(MlflowException.class)
          .hasMessageContaining("HTTP 307")
          .hasMessageContaining("redirects");
      assertThat(other.requests()).isEmpty();
    }
  }

  @Test
  void aPageOfAnotherServerIsNoAnswer() {
    proxy.next("get$", LoopbackProxy.answer(200, "<html>Log in</html>"));

    assertThatThrownBy(() -> broken.model(name))
        .isInstanceOf(MlflowException.class)
        .hasMessageContaining("not as MLflow does: <html>Log in</html>");
  }
}
