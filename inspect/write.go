package inspect

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"

	"svcproxy/model"
)

// Options change how a View is written.
type Options struct {
	// Color adds terminal colours where a format has them: only tree.
	Color bool
}

var writers = map[string]func(*bytes.Buffer, model.View, Options) error{
	"tree":  writeTree,
	"table": writeTable,
	"json":  writeJSON,
	"yaml":  writeYAML,
	"dot":   writeDOT,
	"svg":   writeSVG,
}

// Formats lists the formats that Write knows.
func Formats() []string { return []string{"tree", "table", "json", "yaml", "dot", "svg"} }

// Write writes v in one of the Formats, sorted by Service, frontend and endpoint. Nothing is written
// where v can't be put into the format.
func Write(w io.Writer, v model.View, format string, o Options) error {
	write, ok := writers[format]
	if !ok {
		return fmt.Errorf("unknown format %q: want one of %s", format, strings.Join(Formats(), ", "))
	}
	var b bytes.Buffer
	if err := write(&b, sorted(v), o); err != nil {
		return fmt.Errorf("view of %s as %s: %w", v.Backend, format, err)
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("view of %s as %s: %w", v.Backend, format, err)
	}
	return nil
}

// Filter returns the part of v that is one Service, "namespace/name", or one port of it,
// "namespace/name:port". It holds no Services where there is no such one.
func Filter(v model.View, service string) model.View {
	out := model.View{Backend: v.Backend}
	for _, s := range v.Services {
		if name, _, _ := strings.Cut(s.Name, ":"); s.Name == service || name == service {
			out.Services = append(out.Services, s)
		}
	}
	return out
}

// sorted returns a copy of v in its order of writing, with empty lists in place of nil ones.
func sorted(v model.View) model.View {
	v.Services = append([]model.ServiceView{}, v.Services...)
	for i := range v.Services {
		s := &v.Services[i]
		s.Frontends = append([]model.FrontendView{}, s.Frontends...)
		s.Endpoints = append([]model.EndpointView{}, s.Endpoints...)
		slices.SortStableFunc(s.Frontends, compareFrontends)
		slices.SortStableFunc(s.Endpoints, compareEndpoints)
	}
	slices.SortStableFunc(v.Services, compareServices)
	return v
}
