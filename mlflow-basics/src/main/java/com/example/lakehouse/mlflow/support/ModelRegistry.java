package com.example.lakehouse.mlflow.support;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.UUID;
import java.util.function.Function;

/**
 * MLflow's model registry. Its own Java client reads models and versions, but makes none.
 *
 * <p>Each request is repeated while the server is away, for about half a minute, and is still
 * carried out once: also one that was carried out although its answer was lost. To copy it, take
 * {@link Credentials}, {@link MlflowException} and {@link MlflowHttp} too.
 *
 * <p>All methods throw {@link MlflowException} with MLflow's error code.
 *
 * @see <a href="https://mlflow.org/docs/latest/api_reference/rest-api.html">MLflow REST API</a>
 */
public final class ModelRegistry {
  private static final String MODELS = "/api/2.0/mlflow/registered-models/";
  private static final String VERSIONS = "/api/2.0/mlflow/model-versions/";
  private static final int PAGE = 100;

  /**
   * A tag that tells a repeated request for a version from a second one. MLflow's pages show no tag
   * that begins with {@code mlflow.}, and {@link ModelVersion#tags} leaves this one out.
   */
  private static final String REQUEST = "mlflow.javaRequestId";

  private final MlflowHttp http;

  /**
   * A model of the registry.
   *
   * @param aliases the version that each alias stands for
   */
  public record RegisteredModel(
      String name,
      String description,
      Map<String, String> tags,
      Map<String, Integer> aliases,
      Instant created) {}

  /**
   * A version of a model. Its aliases are the model's: MLflow's search leaves them out here.
   *
   * @param source the URI of its files
   * @param runId the run that made it; empty if none was named
   * @param status {@code READY} when it can be used
   */
  public record ModelVersion(
      String name,
      int version,
      String source,
      String runId,
      String description,
      Map<String, String> tags,
      Instant created,
      String status) {
    /** Such as {@code models:/name/3}. */
    public String uri() {
      return "models:/" + name + "/" + version;
    }
  }

  public ModelRegistry(Credentials credentials) {
    this(new MlflowHttp(credentials));
  }

  ModelRegistry(MlflowHttp http) {
    this.http = http;
  }

  /**
   * Creates a model without versions.
   *
   * @param name anything but {@code /} and {@code :}
   * @throws MlflowException {@code RESOURCE_ALREADY_EXISTS} if there is one of this name
   */
  public RegisteredModel createModel(String name, String description, Map<String, String> tags) {
    Map<String, Object> model =
        Map.of("name", name, "description", description, "tags", pairs(tags));
    return http.retry(
        "creating model " + name,
        0,
        before -> {
          try {
            return model(http.sendOnce("POST", MODELS + "create", model).path("registered_model"));
          } catch (MlflowException e) {
            if (before > 0 && e.errorCode().equals("RESOURCE_ALREADY_EXISTS")) {
              RegisteredModel there =
                  model(
                      http.getOnce(MODELS + "get", Map.of("name", name)).path("registered_model"));
              if (there.description().equals(description) && there.tags().equals(tags)) {
                return there;
              }
            }
            throw e;
          }
        });
  }

  /** Creates a model unless there is one of this name. */
  public RegisteredModel createModelIfAbsent(String name) {
    try {
      return createModel(name, "", Map.of());
    } catch (MlflowException e) {
      if (e.errorCode().equals("RESOURCE_ALREADY_EXISTS")) {
        return model(name);
      }
      throw e;
    }
  }

  /**
   * A model by its name.
   *
   * @throws MlflowException {@code RESOURCE_DOES_NOT_EXIST} if there is no such model
   */
  public RegisteredModel model(String name) {
    return model(http.get(MODELS + "get", Map.of("name", name)).path("registered_model"));
  }

  /**
   * All models that {@code filter} selects, ordered by name.
   *
   * @param filter such as {@code name LIKE 'shop%' AND tags.team = 'search'}; empty for all
   */
  public List<RegisteredModel> searchModels(String filter) {
    Map<String, Object> query = Map.of("filter", filter, "order_by", "name ASC");
    return pages(MODELS, "registered_models", query, ModelRegistry::model);
  }

  /** Sets a tag of a model. */
  public void setTag(String name, String key, String value) {
    set(MODELS + "set-tag", Map.of("name", name, "key", key, "value", value));
  }

  /** Deletes a tag of a model. */
  public void deleteTag(String name, String key) {
    delete(MODELS + "delete-tag", Map.of("name", name, "key", key));
  }

  /** Deletes a model with all its versions and aliases. The files of the versions stay. */
  public void deleteModel(String name) {
    delete(MODELS + "delete", Map.of("name", name));
  }

  /**
   * Creates the next version of a model. Upload the model first: a version is there at once, and
   * the registry does not look at its files.
   *
   * @param source where the files are: {@code runs:/RUN/path}, or below the run's artifact URI
   * @param runId the run that made them
   */
  public ModelVersion createVersion(
      String name, String source, String runId, String description, Map<String, String> tags) {
    String request = UUID.randomUUID().toString();
    Map<String, String> marked = new TreeMap<>(tags);
    marked.put(REQUEST, request);
    Map<String, Object> version =
        Map.of(
            "name", name,
            "source", source,
            "run_id", runId,
            "description", description,
            "tags", pairs(marked));
    return http.retry(
        "creating a version of " + name,
        0,
        before -> {
          List<ModelVersion> made = before == 0 ? List.of() : madeBy(request);
          if (made.isEmpty()) {
            JsonNode answer = http.sendOnce("POST", VERSIONS + "create", version);
            made = before == 0 ? List.of(version(answer.path("model_version"))) : madeBy(request);
          }
          // A gateway may give up a request that the server still carries out after the next one.
          for (ModelVersion late : made.subList(1, made.size())) {
            http.sendOnce("DELETE", VERSIONS + "delete", key(late.name(), late.version()));
          }
          return made.get(0);
        });
  }

  private List<ModelVersion> madeBy(String request) throws IOException, InterruptedException {
    Map<String, String> query = Map.of("filter", "tags.`%s` = '%s'".formatted(REQUEST, request));
    List<ModelVersion> made = new ArrayList<>();
    for (JsonNode version : http.getOnce(VERSIONS + "search", query).path("model_versions")) {
      made.add(version(version));
    }
    made.sort(Comparator.comparingInt(ModelVersion::version));
    return made;
  }

  /**
   * A version by its number.
   *
   * @throws MlflowException {@code RESOURCE_DOES_NOT_EXIST} if there is no such version
   */
  public ModelVersion version(String name, int version) {
    return version(http.get(VERSIONS + "get", key(name, version)).path("model_version"));
  }

  /** A model's version with the highest number, if it has one. */
  public Optional<ModelVersion> latest(String name) {
    Map<String, Object> query =
        Map.of("filter", named(name), "order_by", "version_number DESC", "max_results", 1);
    JsonNode found = http.get(VERSIONS + "search", query).path("model_versions");
    return found.isEmpty() ? Optional.empty() : Optional.of(version(found.get(0)));
  }

  /** A model's versions, the newest first. */
  public List<ModelVersion> versions(String name) {
    return searchVersions(named(name));
  }

  /**
   * All versions that {@code filter} selects, the newest of each model first.
   *
   * @param filter such as {@code run_id = '…'} or {@code name = 'shop' AND tags.stage = 'test'}
   */
  public List<ModelVersion> searchVersions(String filter) {
    Map<String, Object> query = Map.of("filter", filter, "order_by", "version_number DESC");
    return pages(VERSIONS, "model_versions", query, ModelRegistry::version);
  }

  /** Sets a tag of a version. */
  public void setVersionTag(String name, int version, String key, String value) {
    set(VERSIONS + "set-tag", with(key(name, version), Map.of("key", key, "value", value)));
  }

  /** Deletes a tag of a version. */
  public void deleteVersionTag(String name, int version, String key) {
    delete(VERSIONS + "delete-tag", with(key(name, version), Map.of("key", key)));
  }

  /**
   * Deletes a version, and the aliases that stand for it. Its files stay; its number is not used
   * again.
   */
  public void deleteVersion(String name, int version) {
    delete(VERSIONS + "delete", key(name, version));
  }

  /**
   * Makes {@code alias} stand for {@code version}, whatever it stood for before: one request, so no
   * reader sees the alias missing, and of two at once the later one wins.
   *
   * @param alias letters, digits, {@code _} and {@code -}; not {@code latest} and not like {@code
   *     v1}
   */
  public void setAlias(String name, String alias, int version) {
    set(MODELS + "alias", with(key(name, version), Map.of("alias", alias)));
  }

  /** Deletes an alias; the version that it stood for stays. */
  public void deleteAlias(String name, String alias) {
    delete(MODELS + "alias", Map.of("name", name, "alias", alias));
  }

  /** The version that {@code alias} stands for, if the model has that alias. */
  public Optional<ModelVersion> byAlias(String name, String alias) {
    try {
      JsonNode answer = http.get(MODELS + "alias", Map.of("name", name, "alias", alias));
      return Optional.of(version(answer.path("model_version")));
    } catch (MlflowException e) {
      // Its code for a missing alias is that for any bad parameter.
      if (e.status() == 0 || model(name).aliases().containsKey(alias)) {
        throw e;
      }
      return Optional.empty();
    }
  }

  /** The URI of a version's files; with a source that names a run or a model, where they are. */
  String downloadUri(String name, int version) {
    return http.get(VERSIONS + "get-download-uri", key(name, version))
        .path("artifact_uri")
        .asText();
  }

  /**
   * Of two requests at once for a tag or an alias that is new, MLflow refuses one: its store looks
   * for the row, and then inserts it. The second time the row is there.
   */
  private void set(String path, Map<String, ?> body) {
    http.retry(
        "POST " + path,
        0,
        before -> {
          try {
            return http.sendOnce("POST", path, body);
          } catch (MlflowException e) {
            // What its database refuses; what is wrong with a value has other codes.
            if (e.errorCode().equals("BAD_REQUEST")) {
              return http.sendOnce("POST", path, body);
            }
            throw e;
          }
        });
  }

  /** What is gone at a second try was deleted by the first. */
  private void delete(String path, Map<String, ?> body) {
    http.retry(
        "DELETE " + path,
        0,
        before -> {
          try {
            return http.sendOnce("DELETE", path, body);
          } catch (MlflowException e) {
            if (before > 0 && e.errorCode().equals("RESOURCE_DOES_NOT_EXIST")) {
              return null;
            }
            throw e;
          }
        });
  }

  private <T> List<T> pages(
      String path, String field, Map<String, ?> query, Function<JsonNode, T> read) {
    List<T> all = new ArrayList<>();
    Map<String, Object> page = new HashMap<>(query);
    page.put("max_results", PAGE);
    String next;
    do {
      JsonNode answer = http.get(path + "search", page);
      answer.path(field).forEach(element -> all.add(read.apply(element)));
      next = answer.path("next_page_token").asText("");
      page.put("page_token", next);
    } while (!next.isEmpty());
    return all;
  }

  /** A version is a number in MLflow's pages and text in its API. */
  private static Map<String, String> key(String name, int version) {
    return Map.of("name", name, "version", String.valueOf(version));
  }

  private static Map<String, String> with(Map<String, String> some, Map<String, String> more) {
    Map<String, String> both = new HashMap<>(some);
    both.putAll(more);
    return both;
  }

  /** MLflow's filters know no escape: to them {@code 'a''b'} is another name. */
  private static String named(String name) {
    if (name.contains("'") && name.contains("\"")) {
      throw new MlflowException(
          "MLflow cannot search for a name with both kinds of quotes: " + name);
    }
    char quote = name.contains("'") ? '"' : '\'';
    return "name = " + quote + name + quote;
  }

  private static List<Map<String, String>> pairs(Map<String, String> tags) {
    return tags.entrySet().stream()
        .map(tag -> Map.of("key", tag.getKey(), "value", tag.getValue()))
        .toList();
  }

  private static Map<String, String> tags(JsonNode list) {
    Map<String, String> tags = new TreeMap<>();
    list.forEach(tag -> tags.put(tag.path("key").asText(), tag.path("value").asText()));
    tags.remove(REQUEST);
    return Map.copyOf(tags);
  }

  private static RegisteredModel model(JsonNode model) {
    Map<String, Integer> aliases = new TreeMap<>();
    model
        .path("aliases")
        .forEach(a -> aliases.put(a.path("alias").asText(), a.path("version").asInt()));
    return new RegisteredModel(
        model.path("name").asText(),
        model.path("description").asText(),
        tags(model.path("tags")),
        Map.copyOf(aliases),
        Instant.ofEpochMilli(model.path("creation_timestamp").asLong()));
  }

  private static ModelVersion version(JsonNode version) {
    return new ModelVersion(
        version.path("name").asText(),
        version.path("version").asInt(),
        version.path("source").asText(),
        version.path("run_id").asText(),
        version.path("description").asText(),
        tags(version.path("tags")),
        Instant.ofEpochMilli(version.path("creation_timestamp").asLong()),
        version.path("status").asText());
  }
}
