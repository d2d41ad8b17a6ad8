package com.example.lakehouse.mlflow;

import java.lang.annotation.ElementType;
import java.lang.annotation.Retention;
import java.lang.annotation.RetentionPolicy;
import java.lang.annotation.Target;
import org.junit.jupiter.api.extension.ExtendWith;

/**
 * Gives test methods an {@code MlflowServer} as a parameter: one for the JVM, which tests share and
 * do not stop, and which the examples that they run use too. A test that kills a server starts its
 * own.
 *
 * <p>Where the server's Python environment is not there and cannot be made, the tests are skipped,
 * and say so; on a build server, under {@code CI=true}, they fail.
 */
@Target(ElementType.TYPE)
@Retention(RetentionPolicy.RUNTIME)
@ExtendWith(MlflowExtension.class)
public @interface MlflowTest {}
