package inspect

import (
	"bytes"

	gotable "github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"svcproxy/model"
)

// writeTable writes a row for each endpoint or frontend, whichever are more; a Service port's name stands
// in the first of its rows alone.
func writeTable(b *bytes.Buffer, v model.View, _ Options) error {
	t := gotable.NewWriter()
	t.SetStyle(gotable.StyleRounded)
	t.Style().Format.Header = text.FormatDefault
	t.SetColumnConfigs([]gotable.ColumnConfig{{Number: 5, Align: text.AlignRight}})
	t.AppendHeader(gotable.Row{"SERVICE", "PROTOCOL", "FRONTEND", "ENDPOINT", "SHARE", "CHAIN"})
	for i, s := range v.Services {
		if i > 0 {
			t.AppendSeparator()
		}
		t.AppendRows(serviceRows(s))
	}
	b.WriteString(t.Render())
	b.WriteByte('\n')
	return nil
}

func serviceRows(s model.ServiceView) []gotable.Row {
	n := max(1, len(s.Frontends), len(s.Endpoints))
	rows := make([]gotable.Row, n)
	for i := range rows {
		rows[i] = gotable.Row{"", "", "", "", "", ""}
		if i == 0 {
			rows[i][0], rows[i][1] = printable(s.Name), printable(s.Protocol)
		}
		if i < len(s.Frontends) {
			rows[i][2] = frontend(s.Frontends[i])
			if action := s.Frontends[i].Action; action != "" {
				rows[i][2] = frontend(s.Frontends[i]) + " " + printable(action)
			}
		}
		if i < len(s.Endpoints) {
			e := s.Endpoints[i]
			rows[i][3], rows[i][4], rows[i][5] = addrPort(e.Address, e.Port), share(e.Probability), printable(e.Chain)
		}
	}
	if len(s.Endpoints) == 0 {
		rows[0][3] = "none"
	}
	return rows
}
