package com.example.lakehouse.common;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;

class HtmlSinkTest {
  private static final String SCRIPT = "<script>alert('x')</script>";
  private static final String ESCAPED = "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;";

  @TempDir Path folder;

  private String page(Block... blocks) throws IOException {
    // Any class with Javadoc and public static methods will do as an example.
    Example example = Example.of(SparkSessions.class);
    HtmlSink sink = new HtmlSink(example, ExampleSource.of(SparkSessions.class), folder);
    for (Block block : blocks) {
      sink.show(block);
    }
    sink.close();
    assertThat(sink.file()).isEqualTo(folder.resolve("common/SparkSessions.html"));
    return Files.readString(sink.file());
  }

  @Test
  void aTableHasItsColumnsRowsAndAlignment() throws IOException {
    String page =
        page(
            new Block.Table(
                "stock",
                List.of("product", "pieces"),
                List.of(false, true),
                List.of(List.of("lamp", "10"), List.of("", "7")),
                true));

    assertThat(page)
        .contains("<figcaption>stock</figcaption>")
        .contains("<th>product</th><th class=\"numeric\">pieces</th>")
        .contains("<tr><td>lamp</td><td class=\"numeric\">10</td></tr>")
        .contains("<tr><td></td><td class=\"numeric\">7</td></tr>")
        .contains("only the first 2 rows");
  }

  @Test
  void whateverStandsInTheDataIsShownAsText() throws IOException {
    String page =
        page(
            new Block.Step(1, SCRIPT),
            new Block.Text(SCRIPT),
            new Block.Table(
                SCRIPT, List.of(SCRIPT), List.of(false), List.of(List.of(SCRIPT)), false),
            new Block.Figure(new Chart(SCRIPT, SCRIPT).bar(SCRIPT, SCRIPT, 1).bar("b", SCRIPT, 2)),
            new Block.Figure(Plot.scatter(SCRIPT, SCRIPT, SCRIPT).point(SCRIPT, 1, 1)),
            new Block.Refusal(SCRIPT, SCRIPT, SCRIPT, SCRIPT));

    assertThat(page).doesNotContain("<script").contains("<td>" + ESCAPED + "</td>");
  }

  @Test
  void thePageLoadsNothing() throws IOException {
    String page = page(new Block.Figure(new Chart("files", "files").bar("a", 1)));

    assertThat(page.replaceAll("(?s)<pre>.*?</pre>", ""))
        .doesNotContainPattern("(?i)\\ssrc\\s*=|@import|url\\(\\s*['\"]?http|<link\\b|<script\\b");
  }

  @Test
  void aChartIsInlineSvgInTheColourOfThePagesText() throws IOException {
    String page =
        page(new Block.Figure(new Chart("files read", "files").bar("before", 64).bar("after", 5)));

    assertThat(page)
        .containsPattern("<svg [^>]*viewBox='0.0 0.0 600.0 ")
        .contains("currentColor", ">before<", ">after<", ">64<", ">5<")
        .doesNotContain("rgb(1,2,3)");
  }

  /** Draws a chart, as an example does. */
  static final class DrawChart {
    public static void main(String[] args) {
      Svg.draw(new Chart("files", "files").bar("a", 1));
    }
  }

  /** Other systems have their fonts built in. */
  @EnabledOnOs(OS.LINUX)
  @Test
  void withoutFontsAChartIsRefusedInOneClearLine(@TempDir Path folder) throws Exception {
    Path noFonts = Files.writeString(folder.resolve("fonts.conf"), "<fontconfig/>");
    ProcessBuilder builder =
        // Java keeps what it has found under the home folder.
        new ProcessBuilder(ChildJvm.command(DrawChart.class, List.of("-Duser.home=" + folder)))
            .redirectErrorStream(true);
    builder.environment().put("FONTCONFIG_FILE", noFonts.toString());

    Process process = builder.start();
    String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);

    assertThat(output.strip())
        .matches(
            "Exception in thread \"main\" com.example.lakehouse.common.SetupException: A chart needs fonts, .*"
                + " apt-get install fontconfig libharfbuzz0b\\.");
    assertThat(process.waitFor()).isEqualTo(1);
  }

  @Test
  void aScatterAndACurveAreInlineSvgToo() throws IOException {
    String points =
        page(
            new Block.Figure(
                Plot.scatter("models", "depth", "error")
                    .point("shallow", 1, 0.5)
                    .point("deep", 9, 0.2)));
    String curve =
        page(new Block.Figure(Plot.curve("loss", "step", "loss").point("", 1, 2).point("", 2, 1)));

    assertThat(points)
        .containsPattern("<svg [^>]*viewBox='0.0 0.0 600.0 340.0")
        // The name of the vertical axis stands upright, and is drawn as outlines.
        .contains(">depth<", ">shallow<", ">deep<", "currentColor")
        .doesNotContain("rgb(1,2,3)");
    assertThat(curve).contains(">step<", "<path ").isNotEqualTo(points);
  }

  @Test
  void thePageFitsAPhoneAndADarkRoom() throws IOException {
    assertThat(page())
        .contains("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">")
        .contains("@media (prefers-color-scheme: dark)");
  }

  @Test
  void theSourceIsThereWithItsSnippetsMarked() throws IOException {
    String page = page();

    String snippet = page.substring(page.indexOf("class=\"part snippet\""));
    assertThat(snippet.substring(0, snippet.indexOf("class=\"part\"")))
        .contains("open")
        .contains("<span class=\"keyword\">public</span>")
        .contains("<span class=\"comment\">/**");
    assertThat(page).contains("<h1>SparkSessions</h1>", "Builds the one Spark session of a run.");
  }

  @Test
  void theIndexListsThePagesByModule() throws IOException {
    page();

    Path index =
        HtmlSink.writeIndex(
            folder, List.of(Example.of(SparkSessions.class), Example.of(Sandbox.class)));

    assertThat(Files.readString(index))
        .contains("<h2>common</h2>")
        .contains("<a href=\"common/SparkSessions.html\">SparkSessions</a>")
        .doesNotContain("Sandbox.html");
  }
}
