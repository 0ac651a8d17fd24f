<?php
// A receiver with PHP alone: php -S 0.0.0.0:8080 receiver.php
// (The standard-webhooks library for PHP does the same behind Composer.)

function genuine(string $secret, string $body): bool
{
    $id = $_SERVER['HTTP_WEBHOOK_ID'] ?? '';
    $timestamp = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '';
    if ($id === '' || !preg_match('/^[0-9]{1,12}$/D', $timestamp) || abs(time() - (int) $timestamp) > 300) {
        return false;
    }
    $key = base64_decode(substr($secret, strlen('whsec_')), true);
    $expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$timestamp.$body", $key, true));
    $found = false;
    foreach (explode(' ', $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '') as $given) {
        $found = hash_equals($expected, $given) || $found;
    }
    return $found;
}

$body = file_get_contents('php://input');
if (!genuine(getenv('RELAY_ENDPOINT_SECRET'), $body)) {
    http_response_code(400);
    exit;
}
$event = json_decode($body);
error_log($event->type); // store it here: the same event may come again, with the same webhook-id
http_response_code(204);
