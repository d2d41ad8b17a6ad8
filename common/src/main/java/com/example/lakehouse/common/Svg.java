package com.example.lakehouse.common;

import java.awt.BasicStroke;
import java.awt.Color;
import java.awt.Font;
import java.awt.Rectangle;
import java.text.DecimalFormat;
import java.text.DecimalFormatSymbols;
import java.util.List;
import java.util.Locale;
import org.jfree.chart.ChartFactory;
import org.jfree.chart.JFreeChart;
import org.jfree.chart.axis.CategoryAxis;
import org.jfree.chart.axis.ValueAxis;
import org.jfree.chart.block.BlockBorder;
import org.jfree.chart.labels.StandardCategoryItemLabelGenerator;
import org.jfree.chart.plot.CategoryPlot;
import org.jfree.chart.plot.PlotOrientation;
import org.jfree.chart.renderer.category.BarRenderer;
import org.jfree.chart.renderer.category.StandardBarPainter;
import org.jfree.data.category.DefaultCategoryDataset;
import org.jfree.svg.SVGGraphics2D;
import org.jfree.svg.ViewBox;

/** Draws charts as SVG whose text takes the colour of the page around it, light or dark. */
final class Svg {
  private static final int WIDTH = 600;
  private static final int BAR_HEIGHT = 26;
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

  static String draw(Chart chart) {
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
    drawing.setBackgroundPaint(null);
    if (drawing.getLegend() != null) {
      drawing.getLegend().setBackgroundPaint(null);
      drawing.getLegend().setFrame(BlockBorder.NONE);
      drawing.getLegend().setItemPaint(INK);
      drawing.getLegend().setItemFont(FONT);
    }
    style(drawing.getCategoryPlot());
    int height =
        70 + BAR_HEIGHT * data.getColumnCount() * data.getRowCount() + 14 * data.getColumnCount();
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
    ValueAxis values = plot.getRangeAxis();
    values.setLabelPaint(INK);
    values.setLabelFont(FONT);
    values.setTickLabelPaint(INK);
    values.setTickLabelFont(FONT);
    values.setAxisLineVisible(false);
    values.setUpperMargin(0.15);
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
}
