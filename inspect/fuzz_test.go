package inspect

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"testing"

	"sigs.k8s.io/yaml"

	"svcproxy/model"
)

// FuzzWrite writes a View with any name in every place that takes one, in every format.
func FuzzWrite(f *testing.F) {
	for _, s := range []string{"default/web:http", nasty, "", "yes", "1e3", "- a", "]]>", "<!--", "\ufffe", "\ufeff", "\U0001f600", "é", "\u2028", "a\u202e"} {
		f.Add(s, 0.5)
	}
	f.Add("default/web:http", math.NaN())
	f.Add("default/web:http", math.Inf(-1))
	f.Add("default/web:http", 1e300)
	f.Fuzz(func(t *testing.T, s string, p float64) {
		v := views()["cluster"]
		v.Backend = s
		sv := &v.Services[0]
		sv.Name, sv.Protocol, sv.Chain = s, s, s
		sv.Frontends[0].Type, sv.Frontends[0].Action = s, s
		sv.Endpoints[0].Chain, sv.Endpoints[0].Probability = s, p
		for _, format := range Formats() {
			var b bytes.Buffer
			err := Write(&b, v, format, Options{})
			if noNumber := math.IsNaN(p) || math.IsInf(p, 0); noNumber && (format == "json" || format == "yaml") {
				if err == nil {
					t.Fatalf("%s has no number for %g, but %q", format, p, b.Bytes())
				}
				continue
			}
			if err != nil {
				t.Fatalf("%s: %v", format, err)
			}
			checkSyntax(t, format, b.Bytes())
		}
	})
}

func checkSyntax(t *testing.T, format string, out []byte) {
	t.Helper()
	for _, r := range string(out) {
		if r < ' ' && r != '\n' && (r != '\t' || format != "dot") || r >= 0x7f && r < 0xa0 {
			t.Fatalf("%s has %U: %q", format, r, out)
		}
	}
	switch format {
	case "json":
		if !json.Valid(out) {
			t.Fatalf("no JSON: %q", out)
		}
	case "yaml":
		var v model.View
		if err := yaml.Unmarshal(out, &v); err != nil {
			t.Fatalf("no YAML: %v: %q", err, out)
		}
	case "svg":
		d := xml.NewDecoder(bytes.NewReader(out))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				return
			} else if err != nil {
				t.Fatalf("no XML: %v: %q", err, out)
			}
		}
	}
}
