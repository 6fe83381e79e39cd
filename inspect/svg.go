package inspect

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"

	"svcproxy/model"
)

// Measures of the picture in pixels.
const (
	svgMargin  = 24
	svgPad     = 20
	svgHead    = 72  // the picture's own headline
	svgTitle   = 48  // a card's title
	svgBox     = 44  // a box's height
	svgGap     = 12  // between boxes, and between cards
	svgLink    = 170 // between columns
	svgMinimum = 130 // a box's width at least
	// svgLetters is how many characters of a text are shown: the whole is in its tooltip.
	svgLetters = 48
	svgLarge   = 13
	svgSmall   = 11
	// svgEm is how wide a letter of a monospaced font is, in parts of its size: 0.602 in DejaVu Sans Mono
	// and 0.6 in most others.
	svgEm = 0.602
)

// svgStyle colours the picture, for light screens and for dark ones.
const svgStyle = `
.page{fill:#f1f5f9} .card{fill:#ffffff;stroke:#e2e8f0}
text{font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:13px;fill:#0f172a}
.head{font-family:system-ui,'DejaVu Sans',sans-serif;font-size:20px;font-weight:600}
.name{font-size:15px;font-weight:600} .small{font-size:11px;fill:#64748b} .bad{fill:#b91c1c}
.frontend{fill:#eff6ff;stroke:#3b82f6} .chain{fill:#f5f3ff;stroke:#8b5cf6} .endpoint{fill:#ecfdf5;stroke:#10b981}
.reject{fill:#fef2f2;stroke:#ef4444} .pill{fill:#ffffff;stroke:#cbd5e1} .tag{fill:#e2e8f0}
.link{fill:none;stroke:#94a3b8} .dead{fill:none;stroke:#ef4444;stroke-dasharray:5 4}
@media (prefers-color-scheme:dark){
.page{fill:#020617} .card{fill:#0f172a;stroke:#1e293b} text{fill:#e2e8f0} .small{fill:#94a3b8} .bad{fill:#fca5a5}
.frontend{fill:#172554} .chain{fill:#2e1065} .endpoint{fill:#022c22} .reject{fill:#450a0a}
.pill{fill:#0f172a;stroke:#475569} .tag{fill:#334155}}
`

// box is a place in the picture with two lines of text.
type box struct {
	class        string
	large, small string
	bad          bool // the small text is bad news
}

// card is one Service port: three columns of boxes.
type card struct {
	view    model.ServiceView
	columns [3][]box
}

func (c card) rows() int { return max(len(c.columns[0]), len(c.columns[1]), len(c.columns[2])) }

func (c card) height() int { return svgTitle + columnHeight(c.rows()) + svgPad }

func columnHeight(boxes int) int { return boxes*(svgBox+svgGap) - svgGap }

// picture is an SVG on its way: the columns are equally wide in all cards.
type picture struct {
	b      *bytes.Buffer
	x      [3]int
	widths [3]int
	width  int
}

// writeSVG draws a card for each Service port: frontends on the left, the chain, and endpoints on the
// right with their shares.
func writeSVG(b *bytes.Buffer, v model.View, _ Options) error {
	cards := make([]card, 0, len(v.Services))
	height := svgHead
	for _, s := range v.Services {
		c := newCard(s)
		cards = append(cards, c)
		height += c.height() + svgGap
	}
	height += svgMargin - svgGap
	p := newPicture(b, cards, headline(v))
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d">`+"\n", p.width, height, p.width, height)
	fmt.Fprintf(b, "<title>%s</title>\n<style>%s</style>\n", escape(headline(v)), svgStyle)
	fmt.Fprintf(b, `<rect class="page" width="%d" height="%d"/>`+"\n", p.width, height)
	p.text(svgMargin, 44, "head", headline(v))
	y := svgHead
	for _, c := range cards {
		p.card(c, y)
		y += c.height() + svgGap
	}
	b.WriteString("</svg>\n")
	return nil
}

func newCard(s model.ServiceView) card {
	c := card{view: s}
	for _, f := range s.Frontends {
		bx := box{class: "frontend", large: place(f), small: printable(f.Type)}
		if f.Action != "" {
			bx.class, bx.small, bx.bad = "reject", bx.small+": "+printable(f.Action), true
		}
		c.columns[0] = append(c.columns[0], bx)
	}
	center := box{class: "chain", large: chain(s), small: fmt.Sprintf("%d endpoints", len(s.Endpoints))}
	switch len(s.Endpoints) {
	case 0:
		center.class, center.small, center.bad = "reject", "no endpoints", true
	case 1:
		center.small = "1 endpoint"
	}
	c.columns[1] = []box{center}
	for _, e := range s.Endpoints {
		c.columns[2] = append(c.columns[2], box{class: "endpoint", large: addrPort(e.Address, e.Port), small: printable(e.Chain)})
	}
	return c
}

func newPicture(b *bytes.Buffer, cards []card, head string) *picture {
	p := &picture{b: b, widths: [3]int{svgMinimum, svgMinimum, svgMinimum}}
	titles := textWidth(head, 20)
	for _, c := range cards {
		for i, column := range c.columns {
			for _, bx := range column {
				p.widths[i] = max(p.widths[i], textWidth(bx.large, svgLarge)+svgPad, textWidth(bx.small, svgSmall)+svgPad)
			}
		}
		titles = max(titles, textWidth(c.view.Name, 15)+textWidth(c.view.Protocol, svgSmall)+3*svgPad)
	}
	p.x[0] = svgMargin + svgPad
	p.x[1] = p.x[0] + p.widths[0] + svgLink
	p.x[2] = p.x[1] + p.widths[1] + svgLink
	inner := p.x[2] + p.widths[2] - p.x[0]
	p.width = p.x[0] + max(inner, titles) + svgPad + svgMargin
	return p
}

func (p *picture) card(c card, y int) {
	fmt.Fprintf(p.b, `<rect class="card" x="%d" y="%d" width="%d" height="%d" rx="12"/>`+"\n", svgMargin, y, p.width-2*svgMargin, c.height())
	name, protocol := shorten(printable(c.view.Name)), shorten(printable(c.view.Protocol))
	p.text(p.x[0], y+31, "name", printable(c.view.Name))
	tag := p.x[0] + textWidth(name, 15) + svgPad
	fmt.Fprintf(p.b, `<rect class="tag" x="%d" y="%d" width="%d" height="18" rx="9"/>`+"\n", tag, y+17, textWidth(protocol, svgSmall)+18)
	p.text(tag+9, y+30, "small", printable(c.view.Protocol))

	top := y + svgTitle
	middle := func(column, i int) int {
		free := columnHeight(c.rows()) - columnHeight(len(c.columns[column]))
		return top + free/2 + i*(svgBox+svgGap) + svgBox/2
	}
	for i := range c.columns[0] {
		class := "link"
		if c.view.Frontends[i].Action != "" {
			class = "dead"
		}
		p.link(class, p.x[0]+p.widths[0], middle(0, i), p.x[1], middle(1, 0), 0, 1.5)
	}
	for i, e := range c.view.Endpoints {
		p.link("link", p.x[1]+p.widths[1], middle(1, 0), p.x[2], middle(2, i), svgStraight, linkWidth(e.Probability))
	}
	for column, boxes := range c.columns {
		for i, bx := range boxes {
			p.box(bx, column, middle(column, i))
		}
	}
	for i, e := range c.view.Endpoints {
		p.pill(share(e.Probability), p.x[2]-svgStraight/2, middle(2, i))
	}
}

// svgStraight is how much of a line to an endpoint is straight: the share stands there.
const svgStraight = 80

// linkWidth makes a larger share a thicker line.
func linkWidth(probability float64) float64 {
	if math.IsNaN(probability) {
		return 1
	}
	return 1 + 4*min(1, max(0, probability))
}

// link draws a curve that ends in a straight piece.
func (p *picture) link(class string, x1, y1, x2, y2, straight int, width float64) {
	end := x2 - straight
	bend := (x1 + end) / 2
	fmt.Fprintf(p.b, `<path class="%s" stroke-width="%.2f" d="M%d %dC%d %d %d %d %d %dH%d"/>`+"\n", class, width, x1, y1, bend, y1, bend, y2, end, y2, x2)
}

func (p *picture) box(bx box, column, middle int) {
	x, y := p.x[column], middle-svgBox/2
	fmt.Fprintf(p.b, `<rect class="%s" x="%d" y="%d" width="%d" height="%d" rx="8"/>`+"\n", bx.class, x, y, p.widths[column], svgBox)
	class := "small"
	if bx.bad {
		class += " bad"
	}
	if bx.small == "" {
		p.text(x+svgPad/2, middle+5, "large", bx.large)
		return
	}
	p.text(x+svgPad/2, y+19, "large", bx.large)
	p.text(x+svgPad/2, y+35, class, bx.small)
}

func (p *picture) pill(s string, x, y int) {
	width := textWidth(s, svgSmall) + 14
	fmt.Fprintf(p.b, `<rect class="pill" x="%d" y="%d" width="%d" height="20" rx="10"/>`+"\n", x-width/2, y-10, width)
	p.text(x-width/2+7, y+4, "small", s)
}

// text writes one line of text, shortened; what is cut stays in a tooltip.
func (p *picture) text(x, y int, class, s string) {
	short := shorten(s)
	tooltip := ""
	if short != s {
		tooltip = "<title>" + escape(s) + "</title>"
	}
	fmt.Fprintf(p.b, `<text class="%s" x="%d" y="%d">%s%s</text>`+"\n", class, x, y, tooltip, escape(short))
}

// textWidth estimates how wide a text is as the picture shows it, in pixels.
func textWidth(s string, size float64) int {
	return int(math.Ceil(float64(text.StringWidthWithoutEscSequences(shorten(s))) * size * svgEm))
}

func shorten(s string) string {
	letters := []rune(s)
	if len(letters) <= svgLetters {
		return s
	}
	return string(letters[:svgLetters-1]) + "…"
}

func escape(s string) string {
	var b strings.Builder
	// A strings.Builder takes every write.
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}
