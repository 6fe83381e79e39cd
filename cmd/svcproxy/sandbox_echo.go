package main

import (
	"cmp"
	"os"

	"github.com/spf13/cobra"

	"svcproxy/sandbox/echo"
)

func newSandboxEcho() *cobra.Command {
	server, address := echo.Server{}, ""
	c := &cobra.Command{
		Use:   "echo",
		Short: "Answer over HTTP and UDP with who answers and who asked: a server to try Services with",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			host, _ := os.Hostname()
			server.Name = cmp.Or(server.Name, host)
			return server.Serve(c.Context(), address)
		},
	}
	c.Flags().StringVar(&address, "listen", ":8080", "address to answer at")
	c.Flags().StringVar(&server.Name, "as", "", "name to answer with (default: the host's)")
	c.Flags().DurationVar(&server.Drain, "drain", 0, "how long requests at hand may go on at the end (default: 10s)")
	return c
}
