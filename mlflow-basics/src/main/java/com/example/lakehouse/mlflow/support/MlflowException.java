package com.example.lakehouse.mlflow.support;

/** What an MLflow server refused, or why it could not be asked. No message holds a secret. */
public class MlflowException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  private final int status;
  private final String errorCode;

  /** Something that was refused before a server was asked, or instead of asking it. */
  public MlflowException(String message) {
    this(message, null);
  }

  public MlflowException(String message, Throwable cause) {
    super(message, cause);
    this.status = 0;
    this.errorCode = "";
  }

  MlflowException(int status, String errorCode, String message) {
    super(
        errorCode.isEmpty()
            ? "HTTP %d: %s".formatted(status, message)
            : "%s (HTTP %d): %s".formatted(errorCode, status, message));
    this.status = status;
    this.errorCode = errorCode;
  }

  /** The HTTP status; 0 if there was no answer. */
  public int status() {
    return status;
  }

  /**
   * MLflow's code, such as {@code RESOURCE_DOES_NOT_EXIST}; empty if the answer was not MLflow's.
   */
  public String errorCode() {
    return errorCode;
  }
}
