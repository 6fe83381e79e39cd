package inspect

import (
	"bytes"
	"fmt"

	"github.com/emicklei/dot"

	"svcproxy/model"
)

// writeDOT writes a graph for Graphviz: frontends, the chain, endpoints, with shares on the edges. Each
// Service port is a cluster.
func writeDOT(b *bytes.Buffer, v model.View, _ Options) error {
	g := dot.NewGraph(dot.Directed)
	g.Attr("rankdir", "LR")
	g.Attr("label", headline(v))
	g.Attr("fontname", "sans-serif")
	for i, s := range v.Services {
		dotService(g.Subgraph(fmt.Sprintf("service %06d", i), dot.ClusterOption{}), i, s)
	}
	g.Write(b)
	b.WriteByte('\n')
	return nil
}

func dotService(g *dot.Graph, i int, s model.ServiceView) {
	g.Attr("label", title(s))
	g.Attr("style", "rounded")
	g.Attr("fontname", "sans-serif")
	box := func(what string, j int, label string) dot.Node {
		return g.Node(fmt.Sprintf("%s %06d.%06d", what, i, j)).Label(label).Attr("shape", "box").Attr("style", "rounded").
			Attr("fontname", "monospace")
	}
	center := box("chain", 0, chain(s))
	if len(s.Endpoints) == 0 {
		center.Attr("color", "red")
	}
	for j, f := range s.Frontends {
		edge := g.Edge(box("frontend", j, frontend(f)), center)
		if f.Action != "" {
			edge.Label(printable(f.Action)).Attr("color", "red").Attr("fontname", "sans-serif")
		}
	}
	for j, e := range s.Endpoints {
		label := addrPort(e.Address, e.Port)
		if e.Chain != "" {
			label += "\n" + printable(e.Chain)
		}
		g.Edge(center, box("endpoint", j, label), share(e.Probability)).Attr("fontname", "sans-serif")
	}
}
