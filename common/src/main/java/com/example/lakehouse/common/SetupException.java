package com.example.lakehouse.common;

/**
 * Something outside the code is missing or wrong. The message is one line that names it and the way
 * out, so there is no stack trace to hide it.
 */
public final class SetupException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  public SetupException(String message) {
    super(message, null, false, false);
  }
}
