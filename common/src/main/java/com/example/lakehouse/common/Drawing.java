package com.example.lakehouse.common;

/** What a notebook draws. */
public sealed interface Drawing permits Chart, Plot {
  String title();
}
