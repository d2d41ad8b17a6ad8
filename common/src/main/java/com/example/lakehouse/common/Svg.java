package com.example.lakehouse.common;

import java.awt.BasicStroke;
import java.awt.Color;
import java.awt.Font;
import java.awt.Rectangle;
import java.awt.font.FontRenderContext;
import java.awt.geom.Ellipse2D;
import java.text.DecimalFormat;
import java.text.DecimalFormatSymbols;
import java.util.List;
import java.util.Locale;
import org.jfree.chart.ChartFactory;
import org.jfree.chart.JFreeChart;
import org.jfree.chart.axis.CategoryAxis;
import org.jfree.chart.axis.NumberAxis;
import org.jfree.chart.axis.ValueAxis;
import org.jfree.chart.block.BlockBorder;
import org.jfree.chart.labels.StandardCategoryItemLabelGenerator;
import org.jfree.chart.plot.CategoryPlot;
import org.jfree.chart.plot.PlotOrientation;
import org.jfree.chart.plot.XYPlot;
import org.jfree.chart.renderer.category.BarRenderer;
import org.jfree.chart.renderer.category.StandardBarPainter;
import org.jfree.chart.ui.RectangleInsets;
import org.jfree.data.category.DefaultCategoryDataset;
import org.jfree.data.xy.XYSeries;
import org.jfree.data.xy.XYSeriesCollection;
import org.jfree.svg.SVGGraphics2D;
import org.jfree.svg.ViewBox;

/** Draws charts as SVG whose text takes the colour of the page around it, light or dark. */
final class Svg {
  private static final int WIDTH = 600;
  private static final int BAR_HEIGHT = 26;
  private static final int PLOT_HEIGHT = 340;
  private static final Font FONT = new Font(Font.SANS_SERIF, Font.PLAIN, 13);

  /** Stands for the page's text colour until the drawing is text itself. */
  private static final Color INK = new Color(1, 2, 3);

  /**
   * Told apart in light and dark, and with the common kinds of colour blindness (Okabe and Ito).
   */
  private static final List<Color> SERIES =
      List.of(
          new Color(0x00, 0x72, 0xB2),
          new Color(0xE6, 0x9F, 0x00),
          new Color(0x00, 0x9E, 0x73),
          new Color(0xCC, 0x79, 0xA7),
          new Color(0xD5, 0x5E, 0x00));

  private Svg() {}

  /**
   * @throws SetupException if this machine has no fonts to measure text with
   */
  static String draw(Drawing drawing) {
    requireFonts();
    return drawing instanceof Chart chart ? bars(chart) : points((Plot) drawing);
  }

  /** Without a font, or a library that reads them, Java fails in a different way for each. */
  private static void requireFonts() {
    try {
      FONT.getLineMetrics("text", new FontRenderContext(null, true, true));
    } catch (LinkageError | InternalError | RuntimeException e) {
      throw new SetupException(
          "A chart needs fonts, and Java cannot use this machine's (%s): on Debian and Ubuntu, apt-get install fontconfig libharfbuzz0b."
              .formatted(e.getMessage()));
    }
  }

  private static String points(Plot plot) {
    XYSeriesCollection data = new XYSeriesCollection();
    plot.series()
        .forEach(
            (name, points) -> {
              // As they come: a curve may turn back.
              XYSeries series = new XYSeries(name, false);
              points.forEach(point -> series.add(point.x(), point.y()));
              data.addSeries(series);
            });
    boolean legend = data.getSeriesCount() > 1;
    JFreeChart drawing =
        plot.joined()
            ? ChartFactory.createXYLineChart(
                null, plot.x(), plot.y(), data, PlotOrientation.VERTICAL, legend, false, false)
            : ChartFactory.createScatterPlot(
                null, plot.x(), plot.y(), data, PlotOrientation.VERTICAL, legend, false, false);
    XYPlot axes = drawing.getXYPlot();
    axes.setBackgroundPaint(null);
    axes.setOutlineVisible(false);
    axes.setDomainGridlinePaint(Color.GRAY);
    axes.setDomainGridlineStroke(new BasicStroke(0.3f));
    axes.setRangeGridlinePaint(Color.GRAY);
    axes.setRangeGridlineStroke(new BasicStroke(0.3f));
    style(axes.getDomainAxis());
    style(axes.getRangeAxis());
    ((NumberAxis) axes.getDomainAxis()).setAutoRangeIncludesZero(false);
    ((NumberAxis) axes.getRangeAxis()).setAutoRangeIncludesZero(false);
    for (int i = 0; i < data.getSeriesCount(); i++) {
      axes.getRenderer().setSeriesPaint(i, SERIES.get(i % SERIES.size()));
      axes.getRenderer().setSeriesShape(i, new Ellipse2D.Double(-4, -4, 8, 8));
      axes.getRenderer().setSeriesStroke(i, new BasicStroke(2f));
    }
    return svg(drawing, PLOT_HEIGHT);
  }

  private static String bars(Chart chart) {
    DefaultCategoryDataset data = new DefaultCategoryDataset();
    chart
        .series()
        .forEach(
            (name, bars) ->
                bars.forEach((category, value) -> data.addValue(value, name, category)));
    JFreeChart drawing =
        ChartFactory.createBarChart(
            null,
            null,
            chart.unit(),
            data,
            PlotOrientation.HORIZONTAL,
            data.getRowCount() > 1,
            false,
            false);
    style(drawing.getCategoryPlot());
    int height =
        70 + BAR_HEIGHT * data.getColumnCount() * data.getRowCount() + 14 * data.getColumnCount();
    return svg(drawing, height);
  }

  private static String svg(JFreeChart drawing, int height) {
    drawing.setBackgroundPaint(null);
    // Half of the last number of an axis stands beyond its end.
    drawing.setPadding(new RectangleInsets(0, 0, 0, 24));
    if (drawing.getLegend() != null) {
      drawing.getLegend().setBackgroundPaint(null);
      drawing.getLegend().setFrame(BlockBorder.NONE);
      drawing.getLegend().setItemPaint(INK);
      drawing.getLegend().setItemFont(FONT);
    }
    SVGGraphics2D svg = new SVGGraphics2D(WIDTH, height);
    drawing.draw(svg, new Rectangle(WIDTH, height));
    return svg.getSVGElement(null, false, new ViewBox(0, 0, WIDTH, height), null, null)
        .replace("rgb(1,2,3)", "currentColor");
  }

  private static void style(CategoryPlot plot) {
    plot.setBackgroundPaint(null);
    plot.setOutlineVisible(false);
    plot.setRangeGridlinePaint(Color.GRAY);
    plot.setRangeGridlineStroke(new BasicStroke(0.3f));
    CategoryAxis categories = plot.getDomainAxis();
    categories.setTickLabelPaint(INK);
    categories.setTickLabelFont(FONT);
    categories.setAxisLineVisible(false);
    categories.setMaximumCategoryLabelWidthRatio(0.4f);
    categories.setMaximumCategoryLabelLines(2);
    style(plot.getRangeAxis());
    plot.getRangeAxis().setUpperMargin(0.25);
    BarRenderer bars = (BarRenderer) plot.getRenderer();
    bars.setBarPainter(new StandardBarPainter());
    bars.setShadowVisible(false);
    bars.setMaximumBarWidth(0.3);
    bars.setDefaultItemLabelGenerator(
        new StandardCategoryItemLabelGenerator(
            "{2}", new DecimalFormat("#,##0.##", DecimalFormatSymbols.getInstance(Locale.ROOT))));
    bars.setDefaultItemLabelsVisible(true);
    bars.setDefaultItemLabelPaint(INK);
    bars.setDefaultItemLabelFont(FONT);
    for (int i = 0; i < SERIES.size(); i++) {
      bars.setSeriesPaint(i, SERIES.get(i));
    }
  }

  private static void style(ValueAxis axis) {
    axis.setLabelPaint(INK);
    axis.setLabelFont(FONT);
    axis.setTickLabelPaint(INK);
    axis.setTickLabelFont(FONT);
    axis.setAxisLineVisible(false);
    // Ten million would be 1E7.
    ((NumberAxis) axis)
        .setNumberFormatOverride(
            new DecimalFormat("#,##0.####", DecimalFormatSymbols.getInstance(Locale.ROOT)));
  }
}
