package inspect

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"svcproxy/model"
)

func TestNoFormatPassesControlCharactersOn(t *testing.T) {
	for _, format := range Formats() {
		out := write(t, hostile(), format, Options{})
		if !utf8.Valid(out) {
			t.Errorf("%s is not UTF-8", format)
		}
		for i, r := range string(out) {
			layout := r == '\n' || r == '\t' && format == "dot"
			// YAML escapes what controls a terminal; the rest of Unicode is printable to it.
			if !layout && !strconv.IsPrint(r) && (format != "yaml" || r < 0xa0) {
				t.Errorf("%s has %U at %d: …%q…", format, r, i, out[max(0, i-20):min(len(out), i+20)])
			}
		}
	}
}

func TestAHostileNameStaysOnOneLine(t *testing.T) {
	tame := hostile()
	tame.Backend = "x"
	for _, s := range []*model.ServiceView{&tame.Services[0]} {
		s.Name, s.Protocol, s.Chain, s.Endpoints[0].Chain = "x", "x", "x", "x"
		s.Frontends[0].Type, s.Frontends[0].Action = "x", "x"
	}
	for _, format := range []string{"tree", "table", "json", "dot", "svg"} {
		want := bytes.Count(write(t, tame, format, Options{}), []byte("\n"))
		if got := bytes.Count(write(t, hostile(), format, Options{}), []byte("\n")); got != want {
			t.Errorf("%s has %d lines, with a tame name %d", format, got, want)
		}
	}
}

func TestJSONIsTheDocumentedForm(t *testing.T) {
	v := Filter(views()["cluster"], "kube-system/kube-dns")
	want := `{"backend":"iptables","services":[{"name":"kube-system/kube-dns:dns-tcp","protocol":"TCP","chain":"KUBE-SVC-ERIFXISQEP7F7OF4",` +
		`"frontends":[{"type":"ClusterIP","address":"10.96.0.10","port":53}],` +
		`"endpoints":[{"chain":"KUBE-SEP-ZXMNUKOKXUTL2MK2","address":"10.244.0.3","port":53,"probability":0.5},` +
		`{"chain":"KUBE-SEP-SF3LG62VAE5ALYDV","address":"10.244.0.4","port":53,"probability":0.5}]}]}` + "\n"
	if diff := cmp.Diff(want, string(write(t, v, "json", Options{}))); diff != "" {
		t.Error(diff)
	}
}

func TestJSONAndYAMLCarryTheSameView(t *testing.T) {
	for name, v := range views() {
		var fromJSON, fromYAML, want model.View
		if err := json.Unmarshal(write(t, v, "json", Options{}), &fromJSON); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		plain, err := json.Marshal(sorted(v))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(plain, &want); err != nil {
			t.Fatal(err)
		}
		if a, b := asJSON(t, want), asJSON(t, fromJSON); a != b {
			t.Errorf("%s: JSON carries\n%s, want\n%s", name, b, a)
		}
		if err := yaml.UnmarshalStrict(write(t, v, "yaml", Options{}), &fromYAML); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if a, b := asJSON(t, want), asJSON(t, fromYAML); a != b {
			t.Errorf("%s: YAML carries\n%s, want\n%s", name, b, a)
		}
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestSVGIsXMLThatShowsEveryName(t *testing.T) {
	for name, v := range views() {
		out := write(t, v, "svg", Options{})
		d := xml.NewDecoder(bytes.NewReader(out))
		var shown strings.Builder
		for {
			tok, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			switch tok := tok.(type) {
			case xml.CharData:
				shown.Write(tok)
			case xml.StartElement:
				if !strings.Contains(" svg title style rect text path ", " "+tok.Name.Local+" ") {
					t.Errorf("%s has an element %q", name, tok.Name.Local)
				}
			}
		}
		for _, s := range v.Services {
			for _, want := range []string{s.Name, s.Protocol, s.Chain} {
				if !strings.Contains(shown.String(), printable(want)) {
					t.Errorf("%s does not show %q", name, want)
				}
			}
		}
	}
}

func TestShares(t *testing.T) {
	for p, want := range map[float64]string{
		0: "0%", 1: "100%", 0.5: "50%", 1. / 3: "33.3%", 2. / 3: "66.7%", 0.001: "0.1%", 0.0001: "<0.1%", 1. / 250: "0.4%",
	} {
		if got := share(p); got != want {
			t.Errorf("share of %g is %q, want %q", p, got, want)
		}
	}
}
