package script

import "testing"

func TestTranslationToIPv6(t *testing.T) {
	for v4, v6 := range map[string]string{
		"probe pod-1 10.96.0.10:53/udp answered by pod-2:5353": "probe pod-1 [fd00:10:96::10]:53/udp answered by pod-2:5353",
		"clusterIP: 10.96.0.10":                                "clusterIP: fd00:10:96::10",
		`["192.0.2.1"]`:                                        `["2001:db8:192::1"]`,
		"10.244.0.0/16":                                        "fd00:10:244::/56",
		"172.18.0.101/32":                                      "fc00:f853:ccd:e793::101/128",
		"0.0.0.0/0":                                            "::/0",
		"addressType: IPv4":                                    "addressType: IPv6",
		"ipFamilies:\n- IPv4":                                  "ipFamilies:\n- IPv6",
		"8.8.8.8":                                              "untranslatable:8.8.8.8",
		"localhost:80/tcp, v1.2.3.x":                           "localhost:80/tcp, v1.2.3.x",
	} {
		if got := toIPv6(v4); got != v6 {
			t.Errorf("%q: got %q, want %q", v4, got, v6)
		}
	}
}
