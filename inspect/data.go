package inspect

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"

	"go.yaml.in/yaml/v2"

	"svcproxy/model"
)

// writeJSON writes the View's stable JSON form in one line, as programs like to read it.
func writeJSON(b *bytes.Buffer, v model.View, _ Options) error {
	if err := checkShares(v); err != nil {
		return err
	}
	var raw bytes.Buffer
	enc := json.NewEncoder(&raw)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	// encoding/json escapes what JSON must; the terminal also knows control characters above ASCII, and
	// those that turn the direction of writing. Outside of strings JSON has none of these.
	for _, r := range raw.String() {
		switch {
		case r == '\n' || strconv.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(b, `\u%04x`, r)
		}
	}
	return nil
}

// writeYAML writes the same as writeJSON in YAML, with the keys in the same order.
func writeYAML(b *bytes.Buffer, v model.View, _ Options) error {
	if err := checkShares(v); err != nil {
		return err
	}
	services := make([]yaml.MapSlice, 0, len(v.Services))
	for _, s := range v.Services {
		services = append(services, yaml.MapSlice{
			{Key: "name", Value: valid(s.Name)}, {Key: "protocol", Value: valid(s.Protocol)}, {Key: "chain", Value: valid(s.Chain)},
			{Key: "frontends", Value: yamlFrontends(s.Frontends)}, {Key: "endpoints", Value: yamlEndpoints(s.Endpoints)},
		})
	}
	out, err := yaml.Marshal(yaml.MapSlice{{Key: "backend", Value: valid(v.Backend)}, {Key: "services", Value: services}})
	if err != nil {
		return err
	}
	b.Write(out)
	return nil
}

// checkShares refuses probabilities that are no numbers, which JSON can't write.
func checkShares(v model.View) error {
	for _, s := range v.Services {
		for _, e := range s.Endpoints {
			if math.IsNaN(e.Probability) || math.IsInf(e.Probability, 0) {
				return fmt.Errorf("service port %q: endpoint %s: probability is %g", s.Name, addrPort(e.Address, e.Port), e.Probability)
			}
		}
	}
	return nil
}

// valid replaces bytes that are not UTF-8 as encoding/json does; YAML would have them as binary data.
func valid(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

func yamlFrontends(frontends []model.FrontendView) []yaml.MapSlice {
	out := make([]yaml.MapSlice, 0, len(frontends))
	for _, f := range frontends {
		m := yaml.MapSlice{{Key: "type", Value: valid(f.Type)}, {Key: "address", Value: f.Address}, {Key: "port", Value: f.Port}}
		if f.Action != "" {
			m = append(m, yaml.MapItem{Key: "action", Value: valid(f.Action)})
		}
		out = append(out, m)
	}
	return out
}

func yamlEndpoints(endpoints []model.EndpointView) []yaml.MapSlice {
	out := make([]yaml.MapSlice, 0, len(endpoints))
	for _, e := range endpoints {
		out = append(out, yaml.MapSlice{
			{Key: "chain", Value: valid(e.Chain)}, {Key: "address", Value: e.Address}, {Key: "port", Value: e.Port},
			{Key: "probability", Value: e.Probability},
		})
	}
	return out
}
