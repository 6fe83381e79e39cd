package demo

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/moby/sys/reexec"
)

// The programs that run inside the pods: this binary, under another name.
const (
	dnsCommand = "svcproxy-demo-dns"
	webCommand = "svcproxy-demo-web"
)

func init() {
	reexec.Register(dnsCommand, func() { exit(serveDNS(context.Background(), os.Args[1])) })
	reexec.Register(webCommand, func() { exit(serveWeb(os.Args[1])) })
}

func exit(err error) {
	fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[0], err)
	os.Exit(1)
}

// serveWeb answers every request with the addresses that it came to and from, and the pod's name.
func serveWeb(pod string) error {
	server := &http.Server{
		Addr:        ":8080",
		ReadTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
			from, _, _ := net.SplitHostPort(r.RemoteAddr)
			fmt.Fprintf(w, "You asked for %s from %s; this is %v, pod %s\n", r.Host, from, local, pod)
		}),
	}
	return server.ListenAndServe()
}
