package com.example.lakehouse.common.testing;

import java.lang.annotation.ElementType;
import java.lang.annotation.Retention;
import java.lang.annotation.RetentionPolicy;
import java.lang.annotation.Target;
import org.junit.jupiter.api.extension.ExtendWith;

/**
 * Gives test methods a {@code SparkSession} and a {@code Sandbox} as parameters: one session for
 * the JVM, because starting one takes longer than most tests, and a fresh sandbox for each test.
 * Its temporary views are dropped; one that leaves a streaming query running fails, and the query
 * is stopped.
 */
@Target(ElementType.TYPE)
@Retention(RetentionPolicy.RUNTIME)
@ExtendWith(SparkExtension.class)
public @interface SparkTest {}
