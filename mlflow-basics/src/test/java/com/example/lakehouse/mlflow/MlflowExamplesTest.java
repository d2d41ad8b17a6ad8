package com.example.lakehouse.mlflow;

import com.example.lakehouse.common.testing.ExampleContract;
import com.example.lakehouse.mlflow.support.ArtifactStore;
import com.example.lakehouse.mlflow.support.Credentials;
import com.example.lakehouse.mlflow.support.MlflowException;
import com.example.lakehouse.mlflow.support.ModelRegistry;
import com.example.lakehouse.mlflow.support.RowScorer;
import com.example.lakehouse.mlflow.support.ScoringServer;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/** Its mains use the server of the other tests: starting one takes longer than most of them. */
@MlflowTest
class MlflowExamplesTest extends ExampleContract {

  /** The clients for what MLflow's own Java client cannot do: they take nothing of this library. */
  @Override
  protected Set<String> copiedWithSnippets() {
    return Stream.of(
            Credentials.class,
            MlflowException.class,
            ArtifactStore.class,
            ArtifactStore.ArtifactFile.class,
            ModelRegistry.class,
            ModelRegistry.RegisteredModel.class,
            ModelRegistry.ModelVersion.class,
            RowScorer.class,
            ScoringServer.class,
            ScoringServer.Deployment.class,
            ScoringServer.Shadowed.class,
            ScoringServer.Version.class)
        .map(Class::getName)
        .collect(Collectors.toSet());
  }
}
