package com.example.lakehouse.common;

/** Where a notebook's story goes. */
interface Sink extends AutoCloseable {

  void show(Block block);

  @Override
  void close();
}
