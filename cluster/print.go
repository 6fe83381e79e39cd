package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/client-go/util/jsonpath"
	"sigs.k8s.io/yaml"
)

// Output is a form in which objects are printed.
type Output struct {
	// Format is "", wide, name, json, yaml or jsonpath.
	Format string
	path   *jsonpath.JSONPath
}

// Outputs are the forms, for messages.
const Outputs = "table, wide, name, json, yaml or jsonpath=TEMPLATE"

// ParseOutput reads the value of -o.
func ParseOutput(text string) (Output, error) {
	switch text {
	case "", "table":
		return Output{}, nil
	case "wide", "name", "json", "yaml":
		return Output{Format: text}, nil
	}
	format, template, _ := strings.Cut(text, "=")
	if format != "jsonpath" {
		return Output{}, fmt.Errorf("unknown value %q: want %s", text, Outputs)
	}
	path := jsonpath.New("out").AllowMissingKeys(true)
	if err := path.Parse(template); err != nil {
		return Output{}, fmt.Errorf("jsonpath %s: %w", template, err)
	}
	return Output{Format: format, path: path}, nil
}

// Listing is what is printed at once.
type Listing struct {
	// Objects are whole, of one kind or of several, as Client.Get returns them.
	Objects []json.RawMessage
	// Single prints an object asked for by name as itself, instead of as a list of one.
	Single bool
	// Namespaces adds a column for the namespace.
	Namespaces bool
	Now        time.Time
}

// Print prints the objects.
func (o Output) Print(w io.Writer, l Listing) error {
	switch o.Format {
	case "name":
		return printNames(w, l)
	case "json":
		return printJSON(w, l)
	case "yaml":
		return printYAML(w, l)
	case "jsonpath":
		value, err := l.value()
		if err != nil {
			return err
		}
		return o.path.Execute(w, value)
	}
	return printTables(w, l, o.Format == "wide")
}

// value is the object, or the list, as jsonpath takes it.
func (l Listing) value() (any, error) {
	data, err := l.document()
	if err != nil {
		return nil, err
	}
	var value any
	err = json.Unmarshal(data, &value)
	return value, err
}

// document is the object or the list as JSON.
func (l Listing) document() ([]byte, error) {
	if l.Single && len(l.Objects) == 1 {
		return l.Objects[0], nil
	}
	items := l.Objects
	if items == nil {
		items = []json.RawMessage{}
	}
	return json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "metadata": map[string]any{"resourceVersion": ""}, "items": items})
}

func printJSON(w io.Writer, l Listing) error {
	data, err := l.document()
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", "    "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err = out.WriteTo(w)
	return err
}

func printYAML(w io.Writer, l Listing) error {
	data, err := l.document()
	if err == nil {
		data, err = yaml.JSONToYAML(data)
	}
	if err == nil {
		_, err = w.Write(data)
	}
	return err
}

func printNames(w io.Writer, l Listing) error {
	for _, data := range l.Objects {
		m, err := readMeta(data)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%s/%s\n", m.Kind.Word(), m.Metadata.Name); err != nil {
			return err
		}
	}
	return nil
}

// meta is what all objects have.
type meta struct {
	Kind     Kind `json:"kind"`
	Metadata struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
}

func readMeta(data []byte) (meta, error) {
	var m meta
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("read an object: %w", err)
	}
	if _, ok := kinds[m.Kind]; !ok {
		return m, fmt.Errorf("an object of the unknown kind %q", m.Kind)
	}
	return m, nil
}

// printTables prints a table for each kind, in the order in which the kinds come.
func printTables(w io.Writer, l Listing, wide bool) error {
	var order []Kind
	byKind := map[Kind][]json.RawMessage{}
	for _, data := range l.Objects {
		m, err := readMeta(data)
		if err != nil {
			return err
		}
		if byKind[m.Kind] == nil {
			order = append(order, m.Kind)
		}
		byKind[m.Kind] = append(byKind[m.Kind], data)
	}
	for i, kind := range order {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		prefix := ""
		if len(order) > 1 {
			prefix = kind.Word() + "/"
		}
		if err := printTable(w, kind, byKind[kind], l, prefix, wide); err != nil {
			return err
		}
	}
	return nil
}

func printTable(w io.Writer, kind Kind, objects []json.RawMessage, l Listing, prefix string, wide bool) error {
	t := tables[kind]
	header, most := t.header, len(t.header)-t.wide
	if wide {
		most = len(t.header)
	}
	var rows [][]string
	for _, data := range objects {
		m, err := readMeta(data)
		if err != nil {
			return err
		}
		row, err := t.row(data, l.Now)
		if err != nil {
			return fmt.Errorf("%s %s: %w", m.Kind, m.Metadata.Name, err)
		}
		if !t.nameless {
			row[0] = prefix + row[0]
		}
		row = row[:most]
		if l.Namespaces && kinds[kind].namespaced {
			row = append([]string{m.Metadata.Namespace}, row...)
		}
		rows = append(rows, row)
	}
	header = header[:most]
	if l.Namespaces && kinds[kind].namespaced {
		header = append([]string{"NAMESPACE"}, header...)
	}
	return PrintRows(w, header, rows)
}

// PrintRows prints a table as kubectl does: three spaces between columns, no lines.
func PrintRows(w io.Writer, header []string, rows [][]string) error {
	tab := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		if _, err := fmt.Fprintln(tab, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return tab.Flush()
}
