package echo

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// free returns an address that was free a moment ago.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs a server and returns its address, its end, and the error that it ended with.
func start(t *testing.T) (address string, end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	address = free(t)
	ended := make(chan error, 1)
	go func() { ended <- (&Server{Name: "web-a"}).Serve(ctx, address) }()
	for {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("ended at once: %v", err)
		default:
		}
	}
	t.Cleanup(cancel)
	return address, func() error { cancel(); return <-ended }
}

func TestAnswersNameServerAndClient(t *testing.T) {
	address, end := start(t)
	r, err := http.Get("http://" + address + "/")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(r.Body)
	r.Body.Close()
	if want := "web-a at " + address + ", asked by 127.0.0.1\n"; string(body) != want {
		t.Errorf("HTTP: %q, want %q", body, want)
	}
	c, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 100)
	n, err := c.Read(answer)
	if want := "web-a, asked by 127.0.0.1\n"; err != nil || string(answer[:n]) != want {
		t.Errorf("UDP: %q, %v, want %q", answer[:n], err, want)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
}

func TestATakenAddressIsAnError(t *testing.T) {
	address, _ := start(t)
	if err := (&Server{}).Serve(context.Background(), address); err == nil || !strings.Contains(err.Error(), address) {
		t.Errorf("got %v, want an error that names %s", err, address)
	}
}
