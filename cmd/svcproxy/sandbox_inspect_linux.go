package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"svcproxy/cluster"
	"svcproxy/kubelet"
)

func newSandboxInspect(f *sandboxFlags) *cobra.Command {
	namespace, output := "", "table"
	c := &cobra.Command{
		Use:   "inspect POD",
		Short: "Show what a pod is made of: namespaces, processes, mounts, cgroups, links, routes",
		Args:  exactly(1, "the pod's name"),
		RunE: func(c *cobra.Command, args []string) error {
			if output != "table" && output != "json" {
				return unknown("output", output, "table or json")
			}
			pod, err := podRef(args[0], namespace)
			if err != nil {
				return err
			}
			client, err := f.client(c)
			if err != nil {
				return err
			}
			found, err := client.Inspect(c.Context(), pod)
			if err != nil {
				return hint(err)
			}
			if output == "json" {
				encoder := json.NewEncoder(c.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(found)
			}
			return printInspection(c.OutOrStdout(), found)
		},
	}
	namespaceFlag(c.Flags(), &namespace)
	c.Flags().StringVarP(&output, "output", "o", output, "form: table or json; process numbers are this machine's")
	return c
}

// printInspection prints one table after the other.
func printInspection(w io.Writer, i *kubelet.Inspection) error {
	fmt.Fprintf(w, "pod %s on %s, held by process %d\n", i.Pod, i.Node, i.Pause)
	var namespaces, links, routes, processes, mounts, groups [][]string
	add := func(owner string, of map[string]string) {
		for _, kind := range slices.Sorted(maps.Keys(of)) {
			namespaces = append(namespaces, []string{owner, kind, of[kind]})
		}
	}
	add("pod", i.Namespaces)
	for _, l := range i.Links {
		links = append(links, []string{l.Name, l.Type, strconv.Itoa(l.MTU), orNone(l.MAC), orNone(strings.Join(l.Addresses, ","))})
	}
	for _, r := range i.Routes {
		routes = append(routes, []string{r.Destination, orNone(r.Gateway), r.Device})
	}
	groups = append(groups, groupRow("pod", i.Cgroup)...)
	for _, c := range i.Containers {
		add(c.Name, c.Namespaces)
		groups = append(groups, groupRow(c.Name, c.Cgroup)...)
		for _, p := range c.Processes {
			processes = append(processes, []string{c.Name, strconv.Itoa(p.PID), strconv.Itoa(p.Inside), strings.Join(p.Command, " ")})
		}
		for _, m := range c.Mounts {
			mounts = append(mounts, []string{c.Name, m.Target, m.Type, orNone(m.Source), m.Options})
		}
	}
	for _, t := range []struct {
		header []string
		rows   [][]string
	}{
		{[]string{"NAMESPACES OF", "KIND", "ID"}, namespaces},
		{[]string{"PROCESSES OF", "PID", "INSIDE", "COMMAND"}, processes},
		{[]string{"INTERFACE", "TYPE", "MTU", "MAC", "ADDRESSES"}, links},
		{[]string{"ROUTE", "GATEWAY", "INTERFACE"}, routes},
		{[]string{"CGROUP OF", "PATH", "MEMORY", "CPU", "PIDS"}, groups},
		{[]string{"MOUNTS OF", "TARGET", "TYPE", "SOURCE", "OPTIONS"}, mounts},
	} {
		if len(t.rows) == 0 {
			continue
		}
		fmt.Fprintln(w)
		if err := cluster.PrintRows(w, t.header, t.rows); err != nil {
			return err
		}
	}
	if i.Interface != "" {
		fmt.Fprintf(w, "\nthe node's end of eth0 is %s\n", i.Interface)
	}
	return nil
}

func groupRow(owner string, g *kubelet.CgroupInspection) [][]string {
	if g == nil {
		return nil
	}
	limit := func(used string, most int64, text string) string {
		if most == 0 {
			return used + " of no limit"
		}
		return used + " of " + text
	}
	return [][]string{{
		owner, g.Path,
		limit(strconv.FormatInt(g.Usage.Memory, 10), g.Limits.Memory, strconv.FormatInt(g.Limits.Memory, 10)),
		limit(g.Usage.CPU.String(), g.Limits.MilliCPU, fmt.Sprintf("%dm", g.Limits.MilliCPU)),
		limit(strconv.FormatInt(g.Usage.Pids, 10), g.Limits.Pids, strconv.FormatInt(g.Limits.Pids, 10)),
	}}
}

func orNone(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
